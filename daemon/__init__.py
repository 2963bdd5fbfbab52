"""The multi-process daemon and the command line."""
