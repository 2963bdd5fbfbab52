"""Metadata stores. `open_store` turns a URL into a store; the contract is in `base`."""

import re
from pathlib import Path

from cairnfs.errors import UsageError
from cairnfs.meta.stores.base import Store
from cairnfs.meta.stores.memory import MemoryStore
from cairnfs.meta.stores.sqlite import SqliteStore

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(.*)", re.DOTALL)
_KNOWN = "sqlite3://PATH, redis://HOST/DB, rediss://HOST/DB (TLS), unix:///SOCKET?db=DB or memory://NAME"
_REDIS = ("redis", "rediss", "unix")
_PLANNED = ("tikv",)


def open_store(url: str, create: bool = False, *, io_timeout_s: float = 60.0) -> Store:
    """The metadata store a URL names: `sqlite3://PATH` (also `sqlite://PATH`, or a bare path ending in .db), Redis
    (engine/README.md has its URLs) or `memory://NAME`.

    A path is relative to the current folder unless it begins with `/`. With `create`, a missing SQLite file is made. UsageError
    for a URL that names no store, VolumeError when there is no volume or the file is not ours, StoreError when it fails.
    """
    match = _URL.fullmatch(url)
    if match is None:
        if url.endswith(".db"):
            return _open_sqlite(url, url, create, io_timeout_s)
        raise UsageError(f"'{url}' is not a metadata URL; use {_KNOWN}")
    scheme, rest = match[1].lower(), match[2]
    if scheme in ("sqlite3", "sqlite"):
        return _open_sqlite(rest, url, create, io_timeout_s)
    if scheme == "memory":
        return MemoryStore(rest)
    if scheme in _REDIS:
        from cairnfs.meta.stores.redis_link import parse_url  # not at the top: other stores start without its library
        from cairnfs.meta.stores.redis_store import RedisStore

        return RedisStore(parse_url(scheme, rest), io_timeout_s)
    if scheme in _PLANNED:
        raise UsageError(f"metadata store '{scheme}' is not available in this version; use {_KNOWN}")
    raise UsageError(f"unknown metadata store '{scheme}'; use {_KNOWN}")


def _open_sqlite(path: str, url: str, create: bool, io_timeout_s: float) -> Store:
    if not path or path.endswith("/"):
        raise UsageError(f"'{url}' names no file; use sqlite3://PATH")
    return SqliteStore(Path(path).absolute(), url, create, io_timeout_s)
