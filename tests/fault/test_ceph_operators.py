"""What those who run a Ceph cluster do to it, or to its clients, while a volume is mounted; and volumes that share a pool."""

import errno
import json
import os
import time
from pathlib import Path

import pytest

from cairnfs.data.pack import pack_name
from cairnfs.objects.base import ObjectInfo
from cairnfs.objects.rados import Access, RadosStore
from cairnfs.types import PackId
from cairnfs.volume import open_volume
from support.ceph_server import CephCluster
from support.mounts import Mount, MountFactory, Volume, cairnfs
from support.storing import failure, wait

A_CONNECTION = 14  # threads that librados may have for it
SENTINEL = pack_name(PackId(77 << 32))  # an object that no metadata knows


def n_threads(mount: Mount) -> int:
    return sum(len(os.listdir(f"/proc/{pid}/task")) for pid in mount.pids)


@pytest.mark.fuse
def test_an_address_that_is_blocklisted_for_a_while(mounts: MountFactory, open_ceph: CephCluster) -> None:
    """So a new connection is of no use either, until the address is let in again: then all goes on without remounting."""
    place = ("--storage", "rados", "--bucket", open_ceph.make_pool("operated"), "--ceph-conf", str(open_ceph.conf))
    mount = mounts.new(mounts.volume(*place), "--io-timeout", "2s", "--workers", "0")
    mount.expected_log += ["blocklisted this client"]
    path, kept = mount.path / "f", bytearray()

    def stored(descriptor: int) -> bool:
        """What could not be stored is kept by the mount."""
        kept.extend(data := os.urandom(10_000))
        os.write(descriptor, data)
        refused = failure(lambda: os.fsync(descriptor))
        assert refused in (None, errno.EIO)
        return refused is None

    with path.open("wb", buffering=0) as file:
        assert stored(file.fileno())
        n_before = n_threads(mount)
        open_ceph.ceph("osd", "blocklist", "add", "127.0.0.1", "600")
        try:
            wait(lambda: not stored(file.fileno()), "nothing fails")
            assert not stored(file.fileno())
            assert n_threads(mount) < n_before + 2 * A_CONNECTION
        finally:
            open_ceph.ceph("osd", "blocklist", "rm", "127.0.0.1")
        wait(lambda: stored(file.fileno()), "nothing is stored any more")
    assert path.read_bytes() == kept
    mount.stop()
    mount.volume.assert_clean("--verify-data")
    found = json.loads(cairnfs("gc", mount.volume.url, "--delete", "--grace", "0", "--json").stdout)
    assert found["garbage_packs"] == found["unknown_objects"] == 0


def test_gc_and_destroy_leave_the_neighbours_in_a_pool_alone(tmp_path: Path, open_ceph: CephCluster) -> None:
    """Of the same name in other namespaces, and of other names in the same one."""
    pool, conf = open_ceph.make_pool("neighbours"), str(open_ceph.conf)
    places = [("test-volume", ""), ("test-volume", "a"), ("test", "a")]
    volumes: list[Volume] = []
    objects: list[RadosStore] = []
    for i, (name, namespace) in enumerate(places):
        options = ["--storage", "rados", "--bucket", pool, "--ceph-conf", conf]
        options += ["--namespace", namespace] if namespace else []
        volumes.append(Volume(tmp_path / str(i), name, *options))
        objects.append(RadosStore(Access(pool, conf, namespace=namespace), name, 20.0))
        objects[-1].put(SENTINEL, [b"x"])

    def found() -> list[list[ObjectInfo]]:
        return [list(each.list("packs/")) for each in objects]

    try:
        assert all(found())
        time.sleep(1.1)  # times of objects are whole seconds, and what is as old as the grace period is young
        gone = json.loads(cairnfs("gc", volumes[1].url, "--delete", "--grace", "0", "--json").stdout)
        assert gone["unknown_objects"] == 1
        assert [bool(each) for each in found()] == [True, False, True]
        with open_volume(volumes[1].url, data=False) as volume:
            uuid = volume.format.uuid
        cairnfs("destroy", volumes[1].url, uuid, "--yes")
        assert [failure(each.check) for each in objects] == [None, errno.EIO, None]
        assert [bool(each) for each in found()] == [True, False, True]
    finally:
        for each in objects:
            each.close()
