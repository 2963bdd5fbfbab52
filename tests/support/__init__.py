"""Fixtures' machinery shared by the tests."""
