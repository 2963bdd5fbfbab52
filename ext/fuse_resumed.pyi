"""Requests that a process had carried out when it died, before it could say so."""
