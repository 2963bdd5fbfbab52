"""Object stores: immutable objects under flat names. `open_objects` is the way in; `base` has the contract.

A volume's objects live below BUCKET/NAME: the marker `cairnfs_uuid` and packs/<2 hex digits>/<16 hex digits>.
"""

import errno
import os
import random
from collections.abc import Callable, Mapping
from typing import Protocol

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError, UsageError, VolumeError
from cairnfs.metrics import Metrics
from cairnfs.objects.base import MARKER, Bucket, ObjectInfo, ObjectStore
from cairnfs.objects.counting import CountingObjects
from cairnfs.objects.retry import Retrying

__all__ = [
    "MARKER",
    "STORAGES",
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


def _file(place: Place) -> Bucket:
    from cairnfs.objects.file import FileStore

    return FileStore(os.path.join(place.bucket, place.name))


STORAGES: dict[str, Callable[[Place], Bucket]] = {"file": _file}  # imports wait, so that a volume loads its own kind only


def open_bucket(place: Place) -> Bucket:
    """The place of a volume's objects, whoever's they are. UsageError for an unknown kind of storage."""
    if place.storage not in STORAGES:
        raise UsageError(f"object storage {place.storage!r} is not known: use {', '.join(STORAGES)}")
    return STORAGES[place.storage](place)


def open_objects(place: Place, io_timeout_s: float, metrics: Metrics | None = None) -> ObjectStore:
    """The volume's object store, with retries. Raises VolumeError when the place belongs to another volume or to none."""
    bucket = open_bucket(place)
    try:
        try:
            found = _marked_uuid(bucket)
        except ObjectError as e:
            raise VolumeError(f"the objects of volume {place.name} are not at {bucket.where}: {e}") from e
        if found != place.uuid:
            raise VolumeError(f"{bucket.where} holds the objects of another volume (uuid {found}, this volume's is {place.uuid})")
    except BaseException:
        bucket.close()
        raise
    metrics = metrics or Metrics()
    return Retrying(CountingObjects(bucket, metrics), io_timeout_s, SystemClock(), random.Random(), metrics)


def create_bucket(place: Place) -> None:
    """Make the place for a new volume's objects and mark it. VolumeError when another volume is there already."""
    bucket = open_bucket(place)
    try:
        bucket.prepare()
        found = _mark(bucket, place.uuid)
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
    for info in bucket.list():
        if info.name != MARKER:
            bucket.delete(info.name)
            n_deleted += 1
            if deleted is not None:
                deleted()
    bucket.delete(MARKER)
    bucket.tidy()
    return n_deleted


def _mark(bucket: Bucket, uuid: str) -> str:
    """Mark a place as a volume's, unless it is marked; returns the uuid it is marked with then."""
    try:
        bucket.put(MARKER, [uuid.encode("ascii") + b"\n"])
    except ObjectError as e:
        if e.errno != errno.EEXIST:
            raise VolumeError(str(e)) from e
    return _marked_uuid(bucket)


def _marked_uuid(bucket: Bucket) -> str:
    return bucket.get(MARKER).decode("ascii", "replace").strip()
