"""Objects of volumes of format version 1, where the folder of a pack follows from its id alone.

Everybody knows packs by their names of the present format (`pack.pack_name`); here these become what the objects are called.
"""

from collections.abc import Iterable, Iterator, Sequence

import mmh3

from cairnfs.data.pack import id_in, pack_id_of, pack_name
from cairnfs.objects.base import ObjectInfo, ObjectStore, Outcome, Request
from cairnfs.types import Buffer, PackId

_FOLDER = "packs/"


def old_name(pack: PackId) -> str:
    """What the object of a pack is called in format version 1: packs/, two hex digits of a hash of the id, its 16 hex digits."""
    return f"{_FOLDER}{mmh3.hash(pack.to_bytes(8, 'big'), signed=False) & 0xFF:02x}/{pack:016x}"


class OldNames:
    """The object store of such a volume. Listings of packs are in the order of their old names."""

    def __init__(self, store: ObjectStore) -> None:
        self._store = store

    @property
    def depth(self) -> int:
        return self._store.depth

    def many(self, requests: Iterable[Request]) -> Iterator[tuple[int, Outcome]]:
        return self._store.many(request._replace(name=_stored(request.name)) for request in requests)

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        self._store.put(_stored(name), parts)

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        return self._store.get(_stored(name), offset, length)

    def head(self, name: str) -> ObjectInfo:
        return self._store.head(_stored(name))._replace(name=name)

    def delete(self, name: str) -> None:
        self._store.delete(_stored(name))

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        for info in self._store.list(prefix, _stored(after)):
            yield info._replace(name=_known(info.name))

    def sync(self) -> None:
        self._store.sync()

    def check(self) -> None:
        self._store.check()

    def close(self) -> None:
        self._store.close()


def _stored(name: str) -> str:
    pack = pack_id_of(name)
    return name if pack is None else old_name(pack)


def _known(name: str) -> str:
    """The present name of a pack; any other object keeps its own."""
    pack = id_in(name)
    return name if pack is None or old_name(pack) != name else pack_name(pack)
