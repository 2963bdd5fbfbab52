"""Real mounts whose bytes are in S3: what is written is read back cold, and a bad network is a delay or EIO."""

import errno
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.gateway import Gateway, S3Proxy, answered
from support.mounts import Mount, MountFactory, Volume, cairnfs

pytestmark = pytest.mark.fuse


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[S3Proxy]:
    made = S3Proxy(gateway.url)
    yield made
    made.close()


def s3_volume(mounts: MountFactory, url: str, meta: str | None = None) -> Volume:
    """The last --bucket counts."""
    return mounts.volume("--storage", "s3", "--bucket", f"{url}/mounted-{mounts.root.name.lower().replace('_', '-')}", url=meta)


def files_of(seed: int, n: int) -> dict[str, bytes]:
    rng = random.Random(seed)
    return {f"{i:03d}": rng.randbytes(rng.choice((0, 100, 40_000, 90_000))) for i in range(n)} | {"large": rng.randbytes(9 << 20)}


def write(mount: Mount, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        (mount.path / name).write_bytes(data)


def assert_same(mount: Mount, files: dict[str, bytes]) -> None:
    for name, data in files.items():
        assert (mount.path / name).read_bytes() == data


@pytest.mark.parametrize("meta", ["sqlite", "redis"])
def test_a_volume_lives_in_s3(meta: str, gateway: Gateway, mounts: MountFactory, request: pytest.FixtureRequest) -> None:
    url = f"{request.getfixturevalue('redis_server').url}/7" if meta == "redis" else None
    volume = s3_volume(mounts, gateway.url, url)
    mount = mounts.new(volume)
    files = files_of(1, 30)
    write(mount, files)
    mount.restart()
    assert_same(mount, files)
    for name in list(files)[:20]:
        os.unlink(mount.path / name)
        del files[name]
    mount.restart()
    assert_same(mount, files)
    config = json.loads((mount.path / ".config").read_text())
    assert config["format"]["storage"] == "s3"
    assert "secretkey" not in json.dumps(config)
    mount.stop()
    volume.assert_clean("--verify-data")
    assert "secretkey" not in cairnfs("status", volume.url, "--json").stdout
    cairnfs("gc", volume.url, "--delete")
    volume.assert_clean()
    uuid = json.loads(cairnfs("status", volume.url, "--json").stdout)["format"]["uuid"]
    destroyed = json.loads(cairnfs("destroy", volume.url, uuid, "--yes", "--json").stdout)
    assert destroyed["deleted_objects"] > 0
    mounts.expect_damage(volume)  # it is gone


@pytest.mark.parametrize("mode", ["half", "late", "busy"])  # tests/stores/test_s3.py has more
def test_a_bad_network_is_a_delay(mode: str, proxy: S3Proxy, mounts: MountFactory) -> None:
    mount = mounts.new(s3_volume(mounts, proxy.url), "--io-timeout", "30")
    mount.expected_log.append("trying again")
    files = files_of(2, 6)
    proxy.delay_s = 0.05
    for name, data in files.items():
        proxy.fail(mode, n=1)
        (mount.path / name).write_bytes(data)
    mount.restart()
    for name, data in files.items():
        proxy.fail(mode, n=1)
        assert (mount.path / name).read_bytes() == data
    proxy.fail("")


def test_a_store_that_stays_away_is_an_io_error_and_comes_back(proxy: S3Proxy, mounts: MountFactory) -> None:
    mount = mounts.new(s3_volume(mounts, proxy.url), "--io-timeout", "2")
    mount.expected_log += ["trying again", "cannot (store|read) object", "could not be stored"]
    write(mount, {"before": b"1" * 50_000, "cached": b"2" * 50_000})
    mount.restart()
    assert (mount.path / "cached").read_bytes() == b"2" * 50_000
    proxy.fail("hang")
    assert (mount.path / "cached").read_bytes() == b"2" * 50_000
    started_s = time.monotonic()
    with pytest.raises(OSError) as caught:
        (mount.path / "before").read_bytes()
    assert caught.value.errno == errno.EIO
    fd = os.open(mount.path / "after", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"3" * 1000)
    with pytest.raises(OSError) as caught:
        os.fsync(fd)
    assert caught.value.errno == errno.EIO
    assert time.monotonic() - started_s < 30
    goes_on(proxy, mount, fd)


def test_keys_that_may_do_nothing_for_a_while(proxy: S3Proxy, mounts: MountFactory) -> None:
    """The log says so in a line, and not with each request; nothing has to be mounted anew when they may again."""
    mount = mounts.new(s3_volume(mounts, proxy.url), "--workers", "0")
    write(mount, {"before": b"1" * 50_000, "other": b"2" * 50_000})
    mount.restart()
    mount.expected_log += ["not permitted to (read|look at|store) object"]
    proxy.instead(answered("403 Forbidden", "AccessDenied"))
    fd = os.open(mount.path / "after", os.O_CREAT | os.O_WRONLY)
    os.write(fd, b"3" * 1000)
    for use in (lambda: (mount.path / "before").read_bytes(), lambda: (mount.path / "other").read_bytes(), lambda: os.fsync(fd)):
        with pytest.raises(OSError) as caught:
            use()
        assert caught.value.errno == errno.EACCES
    told = [line for line in mount.log.read_text().splitlines() if ".retry: " in line]
    assert len(told) == 1
    assert "403 AccessDenied: So it is.): check the keys" in told[0]
    goes_on(proxy, mount, fd)


def goes_on(proxy: S3Proxy, mount: Mount, fd: int) -> None:
    """Once the store answers again, without mounting anew: what was refused is stored, and read after a restart."""
    proxy.fail("")
    os.fsync(fd)
    os.close(fd)
    assert (mount.path / "before").read_bytes() == b"1" * 50_000
    mount.restart()
    assert (mount.path / "after").read_bytes() == b"3" * 1000


def failure(*args: str | Path, code: int = 1) -> str:
    done = cairnfs(*args, check=False)
    assert done.returncode == code, done.stderr
    assert code == 2 or len(done.stderr.strip().splitlines()) == 1, done.stderr
    return done.stderr


def test_what_is_wrong_is_said_in_one_line(
    gateway: Gateway, mounts: MountFactory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    meta = f"sqlite3://{tmp_path}/other.db"
    bucket = ("--storage", "s3", "--bucket")
    assert "needs --bucket" in failure("format", meta, "other", *bucket[:2], code=2)
    assert "keys do not belong" in failure("format", meta, "other", *bucket, "https://key:secret@host/bucket", code=2)
    assert "--region is not for" in failure("format", meta, "other", "--bucket", tmp_path, "--region", "here", code=2)
    volume = s3_volume(mounts, gateway.url)
    point = tmp_path / "point"
    point.mkdir()
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "check the keys" in failure("mount", volume.url, point, "-d")
    assert "check the keys" in failure("format", meta, "other", *bucket, f"{gateway.url}/some-bucket")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    assert "Partial credentials" in failure("mount", volume.url, point, "-d")
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    assert "there are no keys for S3" in failure("mount", volume.url, point, "-d")
    mounts.expect_damage(volume)  # nobody has its keys now
