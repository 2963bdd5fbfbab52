"""The same random operations as in test_model.py, on a mount whose volume is on Redis and a pool of a Ceph cluster."""

from pathlib import Path

import pytest

from support.ceph_server import CephCluster
from support.mounts import MountFactory, rados_options
from support.redis_server import RedisServer
from support.side_by_side import Pair, stay_equal

pytestmark = [pytest.mark.fuse, pytest.mark.slow]


def test_a_mount_on_redis_and_ceph_and_a_native_directory_stay_equal(
    shared_ceph: CephCluster, redis_server: RedisServer, mounts: MountFactory, tmp_path: Path
) -> None:
    native = tmp_path / "native"
    native.mkdir()
    place = [*rados_options(shared_ceph.make_pool("model")), "--ceph-conf", str(shared_ceph.conf)]
    stay_equal(Pair(mounts.new(mounts.volume(*place, url=f"{redis_server.url}/5")).path, native))
