"""The version of the program; the packaging tests hold it equal to pyproject.toml's."""

VERSION = "0.1.0"
