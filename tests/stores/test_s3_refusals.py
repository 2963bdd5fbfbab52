"""What operators get wrong about S3, said in one line at the command line: endpoints, regions, keys, certificates."""

import json
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest

from support.certificates import certified, self_signed
from support.gateway import ACCESS, SECRET, Gateway
from support.mounts import cairnfs
from support.relay import Relay, end

_names = count()


class TlsFront(Relay):
    """The gateway with TLS before it."""

    def __init__(self, url: str, cert: Path, key: Path) -> None:
        self._tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._tls.load_cert_chain(cert, key)
        super().__init__(int(url.rpartition(":")[2]))
        self.url = f"https://127.0.0.1:{self.port}"

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        with self._tls.wrap_socket(client, server_side=True) as secured:
            answers = threading.Thread(target=self._pass_on, args=(server, secured))
            answers.start()
            self._pass_on(secured, server)
            end(server)
            answers.join()

    def _pass_on(self, source: socket.socket, to: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                to.sendall(data)
        except OSError:
            pass
        end(to)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """The certificate of an authority, one that it has signed for 127.0.0.1, and the key of that."""
    return certified(tmp_path_factory.mktemp("authority"))


@pytest.fixture
def front(gateway: Gateway, authority: tuple[Path, Path, Path]) -> Iterator[TlsFront]:
    with TlsFront(gateway.url, *authority[1:]) as made:
        yield made


def refused(meta: str, url: str, *options: str, code: int = 1) -> str:
    """What the formatting of a volume says, in one line."""
    done = cairnfs("format", meta, "refused", "--storage", "s3", "--bucket", url, *options, check=False)
    assert done.returncode == code, done.stderr
    assert done.stderr.count("\n") == 1, done.stderr
    assert SECRET not in done.stderr
    return done.stderr


@pytest.fixture
def meta(tmp_path: Path) -> str:
    return f"sqlite3://{tmp_path}/meta.db"


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("AWS_ENDPOINT_URL", "nonsense", "AWS_ENDPOINT_URL is not the URL of a server: write https://HOST[:PORT]"),
        ("AWS_ENDPOINT_URL_S3", "http://a b", "AWS_ENDPOINT_URL_S3 is not the URL of a server"),
        ("AWS_ENDPOINT_URL", f"http://{ACCESS}:{SECRET}@127.0.0.1", "AWS_ENDPOINT_URL is not the URL of a server"),
        ("AWS_REGION", "no region", "'no region' cannot be a region of S3"),
        ("AWS_ACCESS_KEY_ID", f"{ACCESS}\n", "AWS_ACCESS_KEY_ID begins or ends with a blank, or has a line end"),
        ("AWS_SECRET_ACCESS_KEY", f"{SECRET}\n", "AWS_SECRET_ACCESS_KEY begins or ends with a blank"),
        ("AWS_SESSION_TOKEN", "a\nb", "AWS_SESSION_TOKEN begins or ends with a blank, or has a line end"),
        ("AWS_CA_BUNDLE", "/etc/passwd", "AWS_CA_BUNDLE: /etc/passwd: there is no certificate in it"),
    ],
)
def test_what_cannot_be_in_the_environment(
    name: str, value: str, says: str, s3_keys: None, meta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv(name, value)
    assert says in refused(meta, "s3://bucket")


@pytest.mark.parametrize("host", ["a b", "ex%zzmple", "bücher", 'a"b'])
def test_what_cannot_be_a_host(host: str, s3_keys: None, meta: str) -> None:
    assert "is not the URL of a bucket" in refused(meta, f"http://{host}/bucket", code=2)


def test_a_certificate_is_trusted_by_its_authority(
    front: TlsFront, authority: tuple[Path, Path, Path], meta: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"{front.url}/tls-{next(_names)}"
    assert "is not trusted (UnknownIssuer): name the file of its authority by AWS_CA_BUNDLE" in refused(meta, url)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority[0]))
    assert "is for another name" in refused(meta, url.replace("127.0.0.1", "localhost"))
    cairnfs("format", meta, "refused", "--storage", "s3", "--bucket", url)
    cairnfs("fsck", meta)
    monkeypatch.delenv("AWS_CA_BUNDLE")
    started_s = time.monotonic()
    done = cairnfs("fsck", meta, check=False)
    assert time.monotonic() - started_s < 30  # not the io-timeout: it will not be trusted by waiting
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "name the file of its authority" in done.stderr


def test_a_certificate_that_no_client_takes(gateway: Gateway, meta: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cert, key = self_signed(tmp_path)
    monkeypatch.setenv("AWS_CA_BUNDLE", str(cert))
    with TlsFront(gateway.url, cert, key) as front:
        assert "is that of an authority (CA:TRUE)" in refused(meta, f"{front.url}/bucket")


def test_a_server_without_tls(gateway: Gateway, meta: str) -> None:
    assert "does not speak TLS: write http://" in refused(meta, gateway.url.replace("http:", "https:") + "/bucket")


def test_a_key_that_can_be_no_object_is_named(gateway: Gateway, meta: str) -> None:
    bucket = f"odd-{next(_names)}"
    cairnfs("format", meta, "odd", "--storage", "s3", "--bucket", f"{gateway.url}/{bucket}")
    client = gateway.client("s3")
    client.put_object(Bucket=bucket, Key="odd/packs//x", Body=b"x")
    started_s = time.monotonic()
    done = cairnfs("fsck", meta, check=False)
    assert time.monotonic() - started_s < 30  # not the io-timeout
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "'odd/packs//x', which can be no object of a volume: delete it" in done.stderr
    client.delete_object(Bucket=bucket, Key="odd/packs//x")
    client.put_object(Bucket=bucket, Key="odd/README.txt", Body=b"x")
    cairnfs("fsck", meta)
    uuid = json.loads(cairnfs("status", meta, "--json").stdout)["format"]["uuid"]
    done = cairnfs("destroy", meta, uuid, "--yes", check=False)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "'README.txt', which can be no object of a volume: delete it" in done.stderr
    client.delete_object(Bucket=bucket, Key="odd/README.txt")
    cairnfs("destroy", meta, uuid, "--yes")


def test_nothing_is_destroyed_for_a_place_without_use(gateway: Gateway, meta: str, monkeypatch: pytest.MonkeyPatch) -> None:
    url = f"{gateway.url}/kept-{next(_names)}"
    cairnfs("format", meta, "kept", "--storage", "s3", "--bucket", url)
    assert "refused" in refused(meta, "http://127.0.0.1:9/bucket", "--force")
    cairnfs("fsck", meta)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "check the keys" in refused(meta, url, "--force")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    cairnfs("fsck", meta)
