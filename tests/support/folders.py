"""What the file system of a folder is, and how it treats the folder."""

import subprocess
from pathlib import Path


def file_system(folder: Path) -> str:
    """As stat(1) calls it."""
    return subprocess.check_output(["stat", "-f", "-c", "%T", folder], text=True).strip()


def is_placing_apart(folder: Path) -> bool:
    """Are the folders that are made in it placed apart on the disk?"""
    shown = subprocess.run(["lsattr", "-d", folder], capture_output=True, text=True, check=False).stdout
    return "T" in shown.partition(" ")[0]
