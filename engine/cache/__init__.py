"""Caches of verified bytes, fastest first: slices in memory."""
