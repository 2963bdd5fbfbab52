"""A volume with real metadata rows in memory, objects in a folder, and the data layer between: no fronts, no VFS."""

import dataclasses
from collections.abc import Callable
from pathlib import Path

from cairnfs.clock import Clock
from cairnfs.data import Data
from cairnfs.data.ports import Format, LayoutOps, PackIds
from cairnfs.data.writer import FileWriter
from cairnfs.meta.stores.base import Store
from cairnfs.objects import create_bucket
from cairnfs.objects.base import ObjectStore
from cairnfs.objects.file import FileStore
from cairnfs.options import EngineOptions
from cairnfs.types import Attr, Inode
from support.faulty import FaultyObjects
from support.metavolume import MetaVolume

BLOCK = 64 * 1024  # the smallest block a volume may have: tests cross block borders with few bytes


@dataclasses.dataclass
class MetaParts:
    """What the data layer needs of `cairnfs.meta.Meta`."""

    format: Format
    ids: PackIds
    layout: LayoutOps
    store: Store


class OpenedFile:
    """What the VFS is to a reader: attributes and layouts as of the last fetch or commit."""

    def __init__(self, volume: "DataVolume", ino: Inode) -> None:
        self.ino = ino
        self.volume = volume
        self.attr = volume.meta_rows.attr(ino)
        self.commits: list[Attr] = []
        self.cursor = volume.data.reader.cursor()
        self.writer: FileWriter = volume.data.writers.open(ino, self._committed)

    def layout(self, chunk_no: int) -> bytes:
        return self.volume.meta_rows.layout.read(self.ino, chunk_no)

    def read(self, offset: int, size: int) -> bytes:
        """What an application would read, dirty bytes included, clipped at the end of the file."""
        size_now = max(self.attr.size, self.writer.dirty_end)
        pieces = self.writer.snapshot(offset, size)
        size = max(0, min(size, size_now - offset))
        out = bytearray(b"".join(self.volume.data.reader.read(self, self.cursor, offset, size)))
        for at, data in pieces:
            out[at - offset : at - offset + len(data)] = data
        return bytes(out[:size])

    def _committed(self, attr: Attr) -> None:
        self.commits.append(attr)
        self.attr = attr


class DataVolume:
    """`data` over `objects`, which are faulty on demand and not retried; background jobs are off unless asked for."""

    def __init__(
        self,
        folder: Path,
        *,
        compression: str = "none",
        block_bytes: int = BLOCK,
        clock: Clock | None = None,
        objects: Callable[[ObjectStore], ObjectStore] | None = None,
        **options: object,
    ) -> None:
        self.meta_rows = MetaVolume()
        fmt = dataclasses.replace(
            self.meta_rows.core.format, compression=compression, block_bytes=block_bytes, bucket=str(folder), storage="file"
        )
        create_bucket(fmt)
        self.folder = folder / fmt.name
        self.faulty = FaultyObjects(FileStore(str(self.folder)))
        self.objects = self.faulty if objects is None else objects(self.faulty)
        core = self.meta_rows.core
        self.meta = MetaParts(fmt, core.ids, self.meta_rows.layout, core.store)
        settings = EngineOptions(**{"io_timeout_s": 5.0, "background_jobs": False, **options})  # type: ignore[arg-type]
        self.data = Data(self.meta, self.objects, settings, clock)
        self._n_files = 0

    def file(self) -> OpenedFile:
        """A new empty file, open."""
        self._n_files += 1
        return OpenedFile(self, self.meta_rows.file(b"file%d" % self._n_files))

    def packs(self) -> list[str]:
        """Names of the packs that are stored."""
        return [info.name for info in self.faulty.store.list("packs/")]

    def close(self) -> None:
        self.data.close()
        self.objects.close()
