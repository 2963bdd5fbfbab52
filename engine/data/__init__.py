"""Slices and packs: reading, writing, compaction and deletion of file content. `Data` is the way in."""

from cairnfs.data.face import Data

__all__ = ["Data"]
