"""Benchmarks that report; nothing imports them."""
