"""Two mounts of a volume whose metadata are behind TLS with certificates of both sides, a unix socket, or in Valkey."""

import fcntl
import os
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from conftest import missing

from cairnfs.errors import StoreError
from cairnfs.meta.stores import open_store
from support.certificates import self_signed
from support.mounts import Mount, MountFactory
from support.redis_server import REDIS_SERVER, VALKEY_WITH_TLS, RedisServer, free_port

pytestmark = pytest.mark.fuse

SOON_S = 30
DB = 5


@pytest.fixture
def server(tmp_path: Path, shared_redis: RedisServer) -> Iterator[Callable[..., RedisServer]]:
    """Starts one. It ends after the mounts, if a test asks for it before these."""
    with ExitStack() as started:

        def start(*options: str, program: str | None = REDIS_SERVER) -> RedisServer:
            made = RedisServer(tmp_path / "server", *options, program=program)
            started.callback(made.kill)
            return made

        yield start


@pytest.fixture
def short_folder() -> Iterator[str]:
    """For a socket, whose path has at most 107 bytes."""
    with TemporaryDirectory(prefix="redis-") as folder:
        yield folder


def eventually(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + SOON_S
    while not condition():
        assert time.monotonic() < deadline, "the other mount's change never arrived"
        time.sleep(0.01)


def use(mounts: MountFactory, url: str) -> None:
    """What one mount does, another sees."""
    one = mounts.new(mounts.volume(url=url))
    two = mounts.new(one.volume)
    (one.path / "d").mkdir()
    (one.path / "d" / "f").write_bytes(b"first")
    assert (two.path / "d" / "f").read_bytes() == b"first"
    (two.path / "d" / "f").write_bytes(b"second, and longer")
    assert (one.path / "d" / "f").read_bytes() == b"second, and longer"
    os.rename(one.path / "d" / "f", one.path / "d" / "g")
    eventually(lambda: os.listdir(two.path / "d") == ["g"])
    exclude(one, two)
    with (two.path / "d" / "g").open("ab", buffering=0) as file:
        file.write(b"!")
        os.fsync(file.fileno())
        assert (one.path / "d" / "g").read_bytes() == b"second, and longer!"
    (one.path / "d" / "g").unlink()
    eventually(lambda: os.listdir(two.path / "d") == [])
    (two.path / "d").rmdir()
    eventually(lambda: not (one.path / "d").exists())


def exclude(one: Mount, two: Mount) -> None:
    with (one.path / "d" / "g").open("rb") as mine, (two.path / "d" / "g").open("rb") as theirs:
        fcntl.flock(mine, fcntl.LOCK_EX)
        with pytest.raises(BlockingIOError):
            fcntl.flock(theirs, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(mine, fcntl.LOCK_UN)
        fcntl.flock(theirs, fcntl.LOCK_EX)


@pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is missing")
@pytest.mark.parametrize("kind", ["redis", "valkey"])
def test_tls_with_certificates_of_both_sides(
    server: Callable[..., RedisServer], tmp_path: Path, mounts: MountFactory, kind: str
) -> None:
    program = {"redis": REDIS_SERVER, "valkey": VALKEY_WITH_TLS}[kind]
    if program is None and kind == "valkey":
        pytest.skip("this Debian or Ubuntu has no valkey-tools, in its backports either: no other Valkey has TLS")
    if program is None:
        missing("redis-server")
    (tmp_path / "keys").mkdir()
    cert, key = self_signed(tmp_path / "keys")
    own_cert, own_key = self_signed(tmp_path / "keys", "client")
    port = free_port()
    tls = ["--tls-port", str(port), "--tls-cert-file", str(cert), "--tls-key-file", str(key)]
    server(*tls, "--tls-ca-cert-file", str(own_cert), "--tls-auth-clients", "yes", program=program)
    url = f"rediss://127.0.0.1:{port}/{DB}?tls-ca-cert-file={cert}"
    with pytest.raises(StoreError, match="has not answered"):
        open_store(url, io_timeout_s=0.3)
    use(mounts, f"{url}&tls-cert-file={own_cert}&tls-key-file={own_key}")


def test_unix_socket(server: Callable[..., RedisServer], short_folder: str, mounts: MountFactory) -> None:
    server("--unixsocket", f"{short_folder}/s")
    use(mounts, f"unix://{short_folder}/s?db={DB}")


def test_a_password_in_the_url_stays_out_of_the_log(server: Callable[..., RedisServer], mounts: MountFactory) -> None:
    """Which others may read."""
    own = server()
    with own.client() as client:
        client.config_set("requirepass", "hidden")
    mount = mounts.new(mounts.volume(url=f"redis://:hidden@127.0.0.1:{own.port}/{DB}"))
    mount.stop()
    log = mount.log.read_text()
    assert f"mounted redis://:****@127.0.0.1:{own.port}/{DB}" in log and "hidden" not in log


def test_valkey(valkey_server: RedisServer, mounts: MountFactory) -> None:
    use(mounts, f"{valkey_server.url}/{DB}")
