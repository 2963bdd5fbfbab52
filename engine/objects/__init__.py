"""Object stores: immutable objects under flat names. `open_objects` is the way in; `base` has the contract.

A volume's objects live below BUCKET/NAME: the marker `cairnfs_uuid` and packs/<2 hex digits>/<16 hex digits>.
"""

import errno
import os
import random
from collections.abc import Callable
from typing import Protocol

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError, UsageError, VolumeError
from cairnfs.metrics import Metrics
from cairnfs.objects.base import MARKER, ObjectInfo, ObjectStore
from cairnfs.objects.counting import CountingObjects
from cairnfs.objects.file import FileStore
from cairnfs.objects.retry import Retrying

__all__ = ["MARKER", "ObjectInfo", "ObjectStore", "create_bucket", "destroy_bucket", "open_objects"]


class Place(Protocol):
    """The part of a volume's format that says where its objects are."""

    @property
    def name(self) -> str: ...
    @property
    def uuid(self) -> str: ...
    @property
    def storage(self) -> str: ...
    @property
    def bucket(self) -> str: ...


def open_objects(fmt: Place, io_timeout_s: float, metrics: Metrics | None = None) -> ObjectStore:
    """The volume's object store, with retries. Raises VolumeError when the place belongs to another volume or to none."""
    store = FileStore(_folder(fmt))
    try:
        found = _marked_uuid(store)
    except ObjectError as e:
        raise VolumeError(f"the objects of volume {fmt.name} are not at {store.root}: {e}") from e
    if found != fmt.uuid:
        raise VolumeError(f"{store.root} holds the objects of another volume (uuid {found}, this volume's is {fmt.uuid})")
    metrics = metrics or Metrics()
    return Retrying(CountingObjects(store, metrics), io_timeout_s, SystemClock(), random.Random(), metrics)


def create_bucket(fmt: Place) -> None:
    """Make the place for a new volume's objects and mark it. VolumeError when another volume is there already."""
    folder = _folder(fmt)
    try:
        os.makedirs(folder, exist_ok=True)
    except OSError as e:
        raise VolumeError(f"cannot use {folder} for objects: {e.strerror}") from e
    found = _mark(FileStore(folder), fmt.uuid)
    if found != fmt.uuid:
        raise VolumeError(
            f"{folder} already holds the objects of another volume (uuid {found}): "
            "choose another name or bucket, or destroy that volume"
        )


def destroy_bucket(fmt: Place, deleted: Callable[[], None] | None = None) -> int:
    """Delete every object of a volume, the marker last so that it can be run again; returns how many there were.

    `deleted` is called after each. A folder that is gone already counts as empty. VolumeError when the place belongs to
    another volume, ObjectError when its marker is missing although there is something in it.
    """
    store = FileStore(_folder(fmt))
    if not os.path.isdir(store.root) or not os.listdir(store.root):
        store.remove_folders()
        return 0
    found = _marked_uuid(store)
    if found != fmt.uuid:
        raise VolumeError(f"{store.root} holds the objects of another volume (uuid {found}): nothing was deleted there")
    n_deleted = 0
    for info in store.list():
        if info.name != MARKER:
            store.delete(info.name)
            n_deleted += 1
            if deleted is not None:
                deleted()
    store.delete(MARKER)
    store.remove_folders()
    return n_deleted


def bucket_exists(fmt: Place) -> bool:
    """Whether the folder of a volume is there at all; False also while the disk that holds it is not mounted."""
    return os.path.isdir(_folder(fmt))


def _mark(store: FileStore, uuid: str) -> str:
    """Mark a folder as a volume's, unless it is marked; returns the uuid it is marked with then."""
    try:
        store.put(MARKER, [uuid.encode("ascii") + b"\n"])
    except ObjectError as e:
        if e.errno != errno.EEXIST:
            raise VolumeError(str(e)) from e
    return _marked_uuid(store)


def _marked_uuid(store: FileStore) -> str:
    return store.get(MARKER).decode("ascii", "replace").strip()


def _folder(fmt: Place) -> str:
    if fmt.storage != "file":
        raise UsageError(f"object storage {fmt.storage!r} is not known: use file")
    return os.path.join(fmt.bucket, fmt.name)
