"""Compiled kernels: no policy, no imports from the engine."""
