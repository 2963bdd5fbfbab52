"""A volume as a whole: its metadata store, operations, objects and data, opened and closed together.

This is the way in for everything that works on a volume without being asked by a kernel: mounts, checks, and the
commands that make and destroy volumes.
"""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

from cairnfs.clock import Clock, SystemClock
from cairnfs.const import DEFAULT_BLOCK_BYTES
from cairnfs.errors import ObjectError, StoreError, UsageError, VolumeError
from cairnfs.ext.arena import Arena
from cairnfs.meta import Meta, records
from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.base import Store
from cairnfs.meta.stores.counting import CountingStore
from cairnfs.meta.stores.kept import KeptStore
from cairnfs.meta.volume import VolumeFormat, create_volume, decode_format, wipe_volume
from cairnfs.metrics import EVICTED, Cells, Metrics
from cairnfs.objects import (
    STORAGE_OPTIONS,
    STORAGES,
    Limits,
    ObjectStore,
    Turns,
    bucket_exists,
    create_bucket,
    destroy_bucket,
    open_objects,
)
from cairnfs.objects.s3_url import parse_s3_url
from cairnfs.options import EngineOptions

if TYPE_CHECKING:
    from cairnfs.data import Data

log = logging.getLogger(__name__)


def _show(arena: Arena, metrics: Metrics) -> None:
    metrics.arena_hits.source = lambda: arena.looked_up[0]
    metrics.arena_misses.source = lambda: arena.looked_up[1]
    metrics.arena_evictions.source = lambda: dict(zip(EVICTED, arena.evicted, strict=True))
    metrics.arena_table_bytes.source = lambda: arena.table_bytes


class Volume:
    """An open volume. `objects` and `data` are None when it was opened for its metadata only."""

    def __init__(
        self,
        store: CountingStore,
        meta: Meta,
        options: EngineOptions,
        clock: Clock,
        metrics: Metrics | None = None,
        arena: Arena | None = None,
        turns: tuple[Cells, int] | None = None,
    ) -> None:
        self.store = store
        self._turns = None if turns is None else Turns(*turns)
        self.arena = arena
        self.meta = meta
        self.options = options
        self.clock = clock
        self.metrics = metrics or Metrics()
        if arena is not None:
            _show(arena, self.metrics)
        self._objects: ObjectStore | None = None
        self._data: Data | None = None

    @property
    def format(self) -> VolumeFormat:
        """What the volume is, with its limits as they were when it was opened or last refreshed."""
        return self.meta.format

    def refresh_format(self) -> None:
        """Take up limits that another process has changed. StoreError when the volume is gone, or is another one now: from then
        on nothing is read from its store, or written to it.
        """
        row = self.store.read([records.FORMAT_KEY])[0]
        fmt = None if row is None else decode_format(row.value)
        if fmt is None or fmt.uuid != self.format.uuid:
            self.store.ended = _destroyed(f"volume '{self.format.name}' (uuid {self.format.uuid})", fmt)
            raise StoreError(self.store.ended)
        self.meta.core.format = fmt
        if self.arena is not None:
            self.arena.usage_drop()

    @property
    def objects(self) -> ObjectStore:
        """The object store, opened when first asked for. VolumeError when it is not this volume's."""
        if self._objects is None:
            limits = Limits(self.options.upload_limit_mbps, self.options.download_limit_mbps)
            objects = open_objects(self.format, self.options.io_timeout_s, self.metrics, limits, self._turns)
            if self.format.format_version == 1:
                from cairnfs.data.old_names import OldNames

                objects = OldNames(objects)
            self._objects = objects
        return self._objects

    @property
    def data(self) -> "Data":
        """The data layer, started when first asked for."""
        if self._data is None:
            from cairnfs.data import Data  # not at the top: commands that need no data start sooner

            self._data = Data(self.meta, self.objects, self.options, metrics=self.metrics, arena=self.arena)
        return self._data

    def close(self) -> None:
        """Close data, objects and metadata, in this order; goes on when one fails, and raises the first failure."""
        closers: list[Callable[[], None]] = []
        if self._data is not None:
            closers.append(self._data.close)
            if not self.options.read_only and self._objects is not None:
                closers.append(self._objects.sync)
        if self._objects is not None:
            closers.append(self._objects.close)
        self._data = self._objects = None
        _run_all([*closers, self.store.close])

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _run_all(closers: list[Callable[[], None]]) -> None:
    failures = []
    for close in closers:
        try:
            close()
        except OSError as error:
            failures.append(error)
    if failures:
        raise failures[0]


def open_volume(
    url: str,
    options: EngineOptions | None = None,
    *,
    data: bool = True,
    clock: Clock | None = None,
    arena: Arena | None = None,
    cells: Cells | None = None,
    others: Sequence[Cells] = (),
    turns: tuple[Cells, int] | None = None,
    uuid: str | None = None,
) -> Volume:
    """Open the volume at a metadata URL; with `data`, its objects too, and proven to be this volume's. An `arena` keeps what
    passes of its metadata and data, `cells` what is counted; `others` is what other processes count for the same mount. By the
    numbers and the lock of `turns` they keep to limits of bandwidth together. With a `uuid` it is that volume, and no other.

    Raises UsageError for a bad URL, VolumeError when there is no volume there or it cannot be used, StoreError and
    ObjectError when a store fails.
    """
    options = options or EngineOptions()
    clock = clock or SystemClock()
    metrics = Metrics(cells, others)
    opened = open_store(url, io_timeout_s=options.io_timeout_s)
    store = CountingStore(opened if arena is None else KeptStore(opened, arena), metrics)
    try:
        volume = Volume(store, Meta(store, clock, metrics), options, clock, metrics, arena, turns)
    except BaseException:
        store.close()
        raise
    try:
        if uuid not in (None, volume.format.uuid):
            raise VolumeError(_destroyed(f"volume {uuid}", volume.format))
        if data:
            volume.data  # noqa: B018 - opens it
    except BaseException:
        volume.close()
        raise
    return volume


def _destroyed(volume: str, next_: VolumeFormat | None) -> str:
    now = "" if next_ is None else f", the metadata store holds volume '{next_.name}' (uuid {next_.uuid}) now"
    return f"{volume} was destroyed{now}: unmount"


def default_bucket() -> Path:
    """Where volumes keep their objects unless told otherwise: the same folders as JuiceFS's, by our name."""
    return Path("/var/lib/cairnfs") if os.geteuid() == 0 else Path.home() / ".cairnfs" / "local"


def new_format(
    name: str,
    *,
    storage: str = "file",
    bucket: str | None = None,
    block_bytes: int = DEFAULT_BLOCK_BYTES,
    compression: str = "none",
    capacity_bytes: int = 0,
    inodes: int = 0,
    storage_options: Mapping[str, str] | None = None,
) -> VolumeFormat:
    """The format of a volume to be made, with a new uuid. UsageError says which part is wrong."""
    if storage not in STORAGES:
        raise UsageError(f"object storage {storage!r} is not known: use {', '.join(STORAGES)}")
    for option in storage_options or ():
        if option not in STORAGE_OPTIONS[storage]:
            raise UsageError(f"--{option.replace('_', '-')} is not for --storage {storage}")
    if storage == "file":
        bucket = os.path.abspath(os.path.expanduser(bucket or default_bucket()))
    elif not bucket:
        raise UsageError(f"--storage {storage} needs --bucket")
    if storage == "s3":
        parse_s3_url(bucket)
    fmt = VolumeFormat(
        name=name,
        storage=storage,
        bucket=bucket,
        block_bytes=block_bytes,
        compression=compression,
        capacity_bytes=capacity_bytes,
        inodes=inodes,
        created=time.time_ns() // 10**9,
        storage_options=dict(storage_options or {}),
    )
    fmt.check()
    return fmt


def format_volume(url: str, fmt: VolumeFormat, *, force: bool = False, clock: Clock | None = None) -> None:
    """Make a volume. With `force`, one that is there already is destroyed first, with its objects, unless in use.

    Raises VolumeError when there is a volume (without `force`), when it is in use, or when the bucket holds another's.
    """
    clock = clock or SystemClock()
    if force:
        bucket_exists(fmt)  # a place that cannot be used is found before anything is destroyed for it
    store = open_store(url, create=True)
    try:
        _make_room(store, url, force, clock)
        create_bucket(fmt)
        try:
            create_volume(store, fmt, clock.now_ns(), uid=os.geteuid(), gid=os.getegid())
        except BaseException:
            destroy_bucket(fmt)  # made a moment ago and still empty: it must not block the next try
            raise
        store.sync()
    finally:
        store.close()


def _make_room(store: Store, url: str, force: bool, clock: Clock) -> None:
    """See that no volume is in the store: with `force` by destroying the one that is."""
    if not has_volume(store):
        return
    counting = CountingStore(store, Metrics())
    volume = Volume(counting, Meta(counting, clock), EngineOptions(), clock)
    if not force:
        raise VolumeError(
            f"{url} already holds volume '{volume.format.name}' (uuid {volume.format.uuid}): choose another URL, "
            "or destroy that volume with all its data by adding --force"
        )
    refuse_if_used(volume)
    destroy_bucket(volume.format)
    wipe_volume(store, volume.format)


def has_volume(store: Store) -> bool:
    """Whether a store holds a volume, of whatever version."""
    return store.read([records.FORMAT_KEY])[0] is not None


def refuse_if_used(volume: Volume) -> None:
    """Raise VolumeError naming who has the volume mounted, if anybody has."""
    users = volume.meta.sessions.active()
    if users:
        places = ", ".join(f"{user.host}:{user.mountpoint} (process {user.pid})" for user in users)
        raise VolumeError(f"volume '{volume.format.name}' is in use by {places}: unmount it first")


def check_destroyable(volume: Volume, volume_uuid: str, *, force: bool = False) -> None:
    """Raise VolumeError when the uuid is not the volume's, or (without `force`) when the volume is in use."""
    if volume.format.uuid != volume_uuid:
        raise VolumeError(f"the uuid of volume '{volume.format.name}' is {volume.format.uuid}, not {volume_uuid}")
    if not force:
        refuse_if_used(volume)


def destroy_volume(url: str, volume_uuid: str, *, force: bool = False, deleted: Callable[[], None] | None = None) -> int:
    """Delete all objects and all metadata of a volume; returns the number of objects deleted, and calls `deleted` for each.

    Raises what `check_destroyable` raises, and, with the metadata intact, ObjectError or VolumeError when the objects cannot
    be deleted; with `force` the metadata is deleted all the same.
    """
    with open_volume(url, data=False) as volume:
        check_destroyable(volume, volume_uuid, force=force)
        n_deleted = 0
        try:
            fmt = volume.format
            if not bucket_exists(fmt):
                raise ObjectError(
                    f"{fmt.bucket}/{fmt.name} is not there: mount its disk first, or delete the metadata alone by adding --force"
                )
            n_deleted = destroy_bucket(fmt, deleted)
        except (ObjectError, VolumeError) as error:
            if not force:
                raise
            log.warning("objects of volume '%s' are left behind: %s", volume.format.name, error)
        wipe_volume(volume.store, volume.format)
        volume.store.sync()
        return n_deleted
