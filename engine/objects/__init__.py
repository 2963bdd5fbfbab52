"""Object stores: immutable objects under flat names. `open_objects` is the way in; `base` has the contract.

A volume's objects live below BUCKET/NAME: the marker `cairnfs_uuid` and packs/<2 hex digits>/<16 hex digits>.
"""

import errno
import os
import random
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from typing import Protocol

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError, UsageError, VolumeError
from cairnfs.metrics import Metrics
from cairnfs.objects.base import MARKER, Bucket, Delete, ObjectInfo, ObjectStore, Outcome, checked_name
from cairnfs.objects.counting import CountingObjects
from cairnfs.objects.limits import LimitedObjects, Limits, Turns
from cairnfs.objects.retry import Retrying
from cairnfs.options import EngineOptions

NO_LIMITS = Limits()
N_DELETERS = 16  # threads that delete the objects of a volume; most of the time they wait for a network
DELETED_AT_ONCE = 1000

__all__ = [
    "MARKER",
    "Limits",
    "Turns",
    "STORAGES",
    "STORAGE_OPTIONS",
    "ObjectInfo",
    "ObjectStore",
    "bucket_exists",
    "create_bucket",
    "destroy_bucket",
    "open_bucket",
    "open_objects",
]


class Place(Protocol):
    """The part of a volume's format that says where its objects are. `storage_options`: what else the storage needs."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def storage(self) -> str: ...
    @property
    def bucket(self) -> str: ...
    @property
    def storage_options(self) -> Mapping[str, str]: ...


def _file(place: Place, io_timeout_s: float) -> Bucket:
    from cairnfs.objects.file import SYNCS, FileStore

    return FileStore(os.path.join(place.bucket, place.name), place.storage_options.get("sync", SYNCS[0]))


def _s3(place: Place, io_timeout_s: float) -> Bucket:
    from cairnfs.objects.s3 import S3Objects

    return S3Objects(place.bucket, place.name, place.storage_options.get("region"), io_timeout_s)


def _rados(place: Place, io_timeout_s: float) -> Bucket:
    from cairnfs.objects.rados import Access, RadosStore

    options = place.storage_options
    access = Access(place.bucket, options.get("ceph_conf"), options.get("ceph_user"), options.get("namespace", ""))
    return RadosStore(access, place.name, io_timeout_s)


# How each kind is made, imports included, so that a volume loads its own kind only; and what it may be told besides its bucket.
STORAGES: dict[str, Callable[[Place, float], Bucket]] = {"file": _file, "s3": _s3, "rados": _rados}
STORAGE_OPTIONS: dict[str, tuple[str, ...]] = {
    "file": ("sync",),
    "s3": ("region",),
    "rados": ("ceph_conf", "ceph_user", "namespace"),
}


def open_bucket(place: Place, io_timeout_s: float = EngineOptions.io_timeout_s) -> Bucket:
    """The place of a volume's objects, whoever's they are. UsageError for an unknown kind of storage.

    No call of it may wait for longer than `io_timeout_s`, where it can wait at all.
    """
    if place.storage not in STORAGES:
        raise UsageError(f"object storage {place.storage!r} is not known: use {', '.join(STORAGES)}")
    return STORAGES[place.storage](place, io_timeout_s)


def open_objects(
    place: Place,
    io_timeout_s: float,
    metrics: Metrics | None = None,
    limits: Limits = NO_LIMITS,
    turns: Turns | None = None,
) -> ObjectStore:
    """The volume's object store, with retries. `turns`: those of all processes that have to keep to the limits together.

    Raises VolumeError when the place belongs to another volume or to none.
    """
    bucket = open_bucket(place, io_timeout_s)
    try:
        try:
            found = _uuid_of(Retrying(bucket, io_timeout_s, SystemClock(), random.Random()).get_marker(MARKER))
        except ObjectError as e:
            raise VolumeError(f"the objects of volume {place.name} are not at {bucket.where}: {e}") from e
        if found != place.uuid:
            raise VolumeError(f"{bucket.where} holds the objects of another volume (uuid {found}, this volume's is {place.uuid})")
    except BaseException:
        bucket.close()
        raise
    metrics, clock = metrics or Metrics(), SystemClock()
    counting = CountingObjects(bucket, metrics)
    if not any(limits):
        return Retrying(counting, io_timeout_s, clock, random.Random(), metrics, tells=True)
    limited = LimitedObjects(counting, limits, turns or Turns(), clock)
    return Retrying(limited, io_timeout_s, clock, random.Random(), metrics, limited.waited_s, tells=True)


def create_bucket(place: Place) -> None:
    """Make the place for a new volume's objects and mark it. VolumeError when another volume is there already."""
    bucket = open_bucket(place)
    try:
        bucket.prepare()
        found = _mark(bucket, place.uuid)
        bucket.sync()
        if found != place.uuid:
            raise VolumeError(
                f"{bucket.where} already holds the objects of another volume (uuid {found}): "
                "choose another name or bucket, or destroy that volume"
            )
    finally:
        bucket.close()


def destroy_bucket(place: Place, deleted: Callable[[], None] | None = None) -> int:
    """Delete every object of a volume, the marker last so that it can be run again; returns how many there were.

    `deleted` is called after each. A place that is gone already counts as empty. VolumeError when it belongs to
    another volume, ObjectError when its marker is missing although there is something in it.
    """
    bucket = open_bucket(place)
    try:
        return _destroy(bucket, place.uuid, deleted)
    finally:
        bucket.close()


def bucket_exists(place: Place) -> bool:
    """Whether the place of a volume is there at all; False also while the disk that holds it is not mounted."""
    bucket = open_bucket(place)
    try:
        return bucket.present()
    finally:
        bucket.close()


def _destroy(bucket: Bucket, uuid: str, deleted: Callable[[], None] | None) -> int:
    if bucket.vacant():
        bucket.tidy()
        return 0
    found = _marked_uuid(bucket)
    if found != uuid:
        raise VolumeError(f"{bucket.where} holds the objects of another volume (uuid {found}): nothing was deleted there")
    n_deleted = 0
    steady = Retrying(bucket, EngineOptions.io_timeout_s, SystemClock(), random.Random())
    names = (_deletable(info.name, bucket) for info in steady.list() if info.name != MARKER)
    while batch := list(islice(names, DELETED_AT_ONCE)):
        for outcome in _delete(steady, batch):
            if isinstance(outcome, ObjectError):
                raise outcome
            n_deleted += 1
            if deleted is not None:
                deleted()
    bucket.delete(MARKER)
    bucket.tidy()
    return n_deleted


def _deletable(name: str, bucket: Bucket) -> str:
    try:
        return checked_name(name)
    except ObjectError as e:
        hint = f"another program has stored {name!r}, which can be no object of a volume: delete it"
        raise ObjectError(f"not everything in {bucket.where} can be deleted: {hint}", e.errno) from e


def _delete(store: ObjectStore, names: list[str]) -> Iterator[Outcome]:
    if store.depth > 1:
        yield from (outcome for _, outcome in store.many(map(Delete, names)))
    else:
        with ThreadPoolExecutor(N_DELETERS) as pool:
            yield from pool.map(store.delete, names)


def _mark(bucket: Bucket, uuid: str) -> str:
    """Mark a place as a volume's, unless it is marked; returns the uuid it is marked with then."""
    try:
        bucket.put(MARKER, [uuid.encode("ascii") + b"\n"])
    except ObjectError as e:
        if e.errno != errno.EEXIST:
            raise VolumeError(str(e)) from e
    return _marked_uuid(bucket)


def _marked_uuid(bucket: Bucket) -> str:
    return _uuid_of(bucket.get(MARKER))


def _uuid_of(marker: bytes) -> str:
    return marker.decode("ascii", "replace").strip()
