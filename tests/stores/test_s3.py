"""What only S3 must do: find its bucket and keys, bear a bad network, and say in one line what is wrong."""

import errno
import hashlib
import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError, ObjectMissing, UsageError, VolumeError
from cairnfs.objects import MARKER, create_bucket, destroy_bucket, open_objects
from cairnfs.objects.retry import Retrying
from cairnfs.objects.s3 import S3Objects
from cairnfs.objects.s3_keys import Keys
from cairnfs.objects.s3_url import S3Url, parse_s3_url
from cairnfs.volume import new_format
from support.gateway import ACCESS, SECRET, Gateway, S3Proxy, SessionKeys
from support.storing import wait

_names = count()


@pytest.fixture
def url(gateway: Gateway) -> str:
    """A bucket that is not there yet."""
    return f"{gateway.url}/bucket-{next(_names)}"


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[S3Proxy]:
    made = S3Proxy(gateway.url)
    yield made
    made.close()


@contextmanager
def opened(url: str, io_timeout_s: float = 20.0) -> Iterator[S3Objects]:
    store = S3Objects(url, "volume", None, io_timeout_s)
    store.prepare()
    try:
        store.put(MARKER, [b"x"])
    except ObjectError as error:
        assert error.errno == errno.EEXIST
    yield store
    store.close()


def retrying(store: S3Objects, io_timeout_s: float) -> Retrying:
    return Retrying(store, io_timeout_s, SystemClock(), random.Random(1))


def test_a_taken_name_costs_one_request_and_is_never_overwritten(proxy: S3Proxy) -> None:
    with opened(f"{proxy.url}/bucket-{next(_names)}") as store:
        store.put("packs/00/one", [b"one"])
        proxy.counts.clear()
        store.put("packs/00/two", [b"two"])
        with pytest.raises(ObjectError) as caught:
            store.put("packs/00/one", [b"other"])
        assert caught.value.errno == errno.EEXIST
        assert proxy.counts == {"PUT": 2}
        assert store.get("packs/00/one") == b"one"


@pytest.mark.parametrize("mode", ["unconditional", "unknown"])
def test_a_server_without_conditions_is_asked_before(proxy: S3Proxy, mode: str) -> None:
    proxy.fail(mode, "PUT")
    with opened(f"{proxy.url}/bucket-{next(_names)}") as store:
        store.put("packs/00/one", [b"one"])
        assert store._conditional is False
        proxy.counts.clear()
        store.put("packs/00/two", [b"two"])
        assert proxy.counts == {"HEAD": 1, "PUT": 1, "GET": 1}  # that an object is missing is looked into
        with pytest.raises(ObjectError) as caught:
            store.put("packs/00/one", [b"other"])
        assert caught.value.errno == errno.EEXIST
        assert store.get("packs/00/one") == b"one"
        with opened(store._endpoint + "/" + store._bucket) as other, pytest.raises(ObjectError) as caught:
            other.put("packs/00/two", [b"first of this process"])
        assert caught.value.errno == errno.EEXIST
        assert store.get("packs/00/two") == b"two"


def test_many_threads_share_connections(proxy: S3Proxy) -> None:
    with opened(f"{proxy.url}/bucket-{next(_names)}") as store:
        data = {f"packs/00/{n:03x}": random.Random(n).randbytes(20_000) for n in range(96)}
        failures = []

        def work(names: list[str]) -> None:
            for name in names:
                store.put(name, [data[name]])
                if store.get(name) != data[name]:
                    failures.append(name)

        names = list(data)
        threads = [threading.Thread(target=work, args=(names[n::8],)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert not failures
        assert proxy.n_connections <= 20  # of more than 192 requests


@pytest.mark.parametrize("mode", ["half", "reset", "late", "busy", "slow"])
def test_what_goes_wrong_on_the_way_is_tried_again(proxy: S3Proxy, mode: str, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    with opened(f"{proxy.url}/bucket-{next(_names)}") as plain:
        store = retrying(plain, 20)
        data = random.Random(mode).randbytes(300_000)
        for n in range(4):
            proxy.fail(mode, n=2)
            store.put(f"packs/00/{n}", [data])
            proxy.fail(mode, n=2)
            assert store.get(f"packs/00/{n}", 1000, 200_000) == data[1000:201_000]
        proxy.fail(mode, n=2)
        assert [info.name for info in store.list("packs/")] == [f"packs/00/{n}" for n in range(4)]
        proxy.fail(mode, n=2)
        assert store.head("packs/00/0").size == len(data)
        proxy.fail(mode, n=1)
        store.delete("packs/00/0")
        with pytest.raises(ObjectMissing):
            store.get("packs/00/0")


@pytest.mark.parametrize("mode", ["hang", "half", "busy", "reset"])
def test_a_server_that_stays_away_is_an_io_error_in_time(proxy: S3Proxy, mode: str, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    url = f"{proxy.url}/bucket-{next(_names)}"
    with opened(url) as patient:
        patient.put("packs/00/one", [b"x" * 1000])
    store = retrying(S3Objects(url, "volume", "us-east-1", 2.0), 2.0)
    proxy.fail(mode)
    for use in (lambda: store.put("packs/00/two", [b"y" * 1000]), lambda: store.get("packs/00/one")):
        started_s = time.monotonic()
        with pytest.raises(ObjectError) as caught:
            use()
        assert caught.value.errno == errno.EIO
        assert 1.8 < time.monotonic() - started_s < 10
        assert "\n" not in str(caught.value)
    proxy.fail("")
    assert store.get("packs/00/one") == b"x" * 1000
    store.put("packs/00/three", [b"z" * 1000])
    store.close()


def test_destroying_a_volume_bears_a_bad_moment(proxy: S3Proxy, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    fmt = new_format("volume", storage="s3", bucket=f"{proxy.url}/bucket-{next(_names)}")
    create_bucket(fmt)
    store = open_objects(fmt, 20.0)
    for n in range(40):
        store.put(f"packs/00/{n:016x}", [b"x"])
    store.close()
    proxy.fail("busy", "DELETE", n=10)
    told: list[None] = []
    assert destroy_bucket(fmt, lambda: told.append(None)) == len(told) == 40
    assert proxy.counts["DELETE"] == 40 + 10 + 1  # the marker comes last


def test_no_thread_waits_for_another_that_waits_for_the_server(proxy: S3Proxy, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    with opened(f"{proxy.url}/bucket-{next(_names)}", io_timeout_s=2.0) as made:
        proxy.fail("hang")
        plain = S3Objects(f"{made._endpoint}/{made._bucket}", "volume", None, 2.0)
        store, failed = retrying(plain, 2.0), []

        def put(n: int) -> None:
            with pytest.raises(ObjectError) as caught:
                store.put(f"packs/00/{n}", [b"x"])
            failed.append(caught.value.errno)

        started_s = time.monotonic()
        threads = [threading.Thread(target=put, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert failed == [errno.EIO] * 8
        assert time.monotonic() - started_s < 12  # and not 8 times 2 s
        proxy.fail("")
        store.put("packs/00/0", [b"x"])
        store.close()


def test_opening_a_volume_bears_a_bad_moment(proxy: S3Proxy, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    fmt = new_format("volume", storage="s3", bucket=f"{proxy.url}/bucket-{next(_names)}")
    create_bucket(fmt)
    for mode in ("half", "busy", "reset"):
        proxy.fail(mode, n=2)
        open_objects(fmt, 20.0).close()
    destroy_bucket(fmt)
    started_s = time.monotonic()
    with pytest.raises(VolumeError, match="are not at"):
        open_objects(fmt, 20.0)
    assert time.monotonic() - started_s < 10  # that nothing is there does not pass


def message(error: type[Exception], url: str, *, make: bool = True) -> str:
    fmt = new_format("volume", storage="s3", bucket=url)
    with pytest.raises(error) as caught:
        if make:
            create_bucket(fmt)
        else:
            open_objects(fmt, 2.0)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_wrong_keys_and_buckets_get_one_line(url: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "bucket" in message(VolumeError, url, make=False)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    assert "check the keys" in message(ObjectError, url)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "nobody")
    assert "InvalidAccessKeyId" in message(ObjectError, url)
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    assert "AWS_PROFILE" in message(VolumeError, url)
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    assert "nobody" in message(VolumeError, url)
    monkeypatch.delenv("AWS_PROFILE")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
    assert "refused" in message(ObjectError, "http://127.0.0.1:9/bucket")
    assert "cannot be made" in message(VolumeError, f"{gateway.url}/Not..A-Name")
    monkeypatch.setenv("AWS_CA_BUNDLE", "/none")
    assert "AWS_CA_BUNDLE" in message(VolumeError, url)


def test_a_quota_is_told_as_one(url: str, gateway: Gateway) -> None:
    with opened(url) as store:
        store.put("packs/00/one", [b"x"])
        gateway.admin("quota", "enable", "--quota-scope=user", "--uid=tester")
        try:
            gateway.admin("quota", "set", "--quota-scope=user", "--uid=tester", "--max-objects=1")
            with pytest.raises(ObjectError) as caught:
                for n in range(5):
                    store.put(f"packs/01/{n}", [b"x"])
        finally:
            gateway.admin("quota", "disable", "--quota-scope=user", "--uid=tester")
        assert caught.value.errno == errno.EDQUOT


def test_volumes_in_one_bucket_are_separate_and_what_is_destroyed_is_gone(url: str) -> None:
    one, two, imposter = (new_format(name, storage="s3", bucket=url) for name in ("one", "two", "one"))
    create_bucket(one)
    create_bucket(two)
    with pytest.raises(VolumeError, match="another volume"):
        create_bucket(imposter)
    stores = [open_objects(fmt, 5.0) for fmt in (one, two)]
    for n, store in enumerate(stores):
        store.put("packs/00/0000000000000001", [b"%d" % n])
    assert [store.get("packs/00/0000000000000001") for store in stores] == [b"0", b"1"]
    assert destroy_bucket(one) == 1
    assert destroy_bucket(one) == 0
    with pytest.raises(ObjectError, match="not this volume's place"):
        stores[0].check()
    assert stores[1].get("packs/00/0000000000000001") == b"1"
    for store in stores:
        store.close()


def test_a_range_is_as_long_as_asked_whatever_the_object(url: str) -> None:
    with opened(url) as store:
        data = random.Random(3).randbytes(5 << 20)
        store.put("large", [data[: 1 << 20], memoryview(data)[1 << 20 :]])
        assert hashlib.sha256(store.get("large")).digest() == hashlib.sha256(data).digest()
        for offset, length in ((0, 1), (1 << 20, 4096), ((5 << 20) - 1, 10)):
            assert store.get("large", offset, length) == data[offset : offset + length]


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://host/bucket", S3Url("bucket", "https://host", None)),
        ("http://host:7480/bucket/", S3Url("bucket", "http://host:7480", None)),
        ("http://[::1]:7480/bucket", S3Url("bucket", "http://[::1]:7480", None)),
        ("https://bucket.s3.eu-west-1.amazonaws.com", S3Url("bucket", None, "eu-west-1", True)),
        ("https://b.c.s3.eu-west-1.amazonaws.com/", S3Url("b.c", None, "eu-west-1", True)),
        ("https://bucket.s3-us-gov-west-1.amazonaws.com", S3Url("bucket", None, "us-gov-west-1", True)),
        ("https://bucket.s3.cn-north-1.amazonaws.com.cn", S3Url("bucket", None, "cn-north-1", True)),
        ("https://s3.eu-west-1.amazonaws.com/bucket", S3Url("bucket", None, "eu-west-1", True)),
        ("https://bucket.s3.amazonaws.com", S3Url("bucket", None, None, True)),
        ("s3://bucket", S3Url("bucket", None, None)),
    ],
)
def test_urls(url: str, expected: S3Url) -> None:
    assert parse_s3_url(url) == expected


@pytest.mark.parametrize(
    "url",
    ["bucket", "/srv/folder", "https://host", "https://host/", "https://host/a/b", "ftp://host/a", "https://k:s@host/bucket"]
    + ["s3://bucket/folder", "https://host:port/bucket", "https://host/bucket?x=1", "s3://", "https://host/!"],
)
def test_urls_that_are_wrong(url: str) -> None:
    with pytest.raises(UsageError):
        new_format("volume", storage="s3", bucket=url)


def test_options_of_other_storages_are_refused() -> None:
    with pytest.raises(UsageError, match="--region is not for --storage file"):
        new_format("volume", storage_options={"region": "x"})


def place_of(url: str, region: str | None = None) -> tuple[str, str, bool]:
    store = S3Objects(url, "volume", region, 1.0)
    config = store._client.config
    return str(config["endpoint"]), str(config["region"]), str(config["virtual_hosted_style_request"]).lower() == "true"


def test_where_buckets_of_amazon_are(s3_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    amazon = "https://bucket.s3.eu-west-1.amazonaws.com"
    assert place_of(amazon) == (amazon, "eu-west-1", True)
    assert place_of("s3://bucket", "eu-west-1") == (amazon, "eu-west-1", True)
    assert place_of("s3://buc.ket", "eu-west-1") == ("https://s3.eu-west-1.amazonaws.com", "eu-west-1", False)
    monkeypatch.setenv("AWS_REGION", "eu-west-1")
    assert place_of("s3://bucket") == (amazon, "eu-west-1", True)
    assert place_of("http://host:1/bucket", "here") == ("http://host:1", "here", False)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://host:2/")
    assert place_of("s3://bucket") == ("http://host:2", "eu-west-1", False)
    assert place_of(amazon) == (amazon, "eu-west-1", True)
    assert place_of("http://host:1/bucket") == ("http://host:1", "eu-west-1", False)


def test_keys_of_a_profile(url: str, s3_keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "credentials").write_text(f"[other]\naws_access_key_id = {ACCESS}\naws_secret_access_key = {SECRET}\n")
    (tmp_path / "config").write_text("[profile other]\nregion = somewhere\n")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_PROFILE", "other")
    assert Keys().region() == "somewhere"
    with opened(url) as store:
        store.put("packs/00/one", [b"one"])
        assert store.get("packs/00/one") == b"one"
    assert "AWS_ACCESS_KEY_ID" not in os.environ


def gives_keys(folder: Path, keys: SessionKeys, lives: timedelta) -> None:
    """What credential_process says from now on; SSO and roles end in one."""
    answer = {"Version": 1, "AccessKeyId": keys.access, "SecretAccessKey": keys.secret, "SessionToken": keys.token}
    fresh = folder / "answer.new"
    fresh.write_text(json.dumps(answer | {"Expiration": (datetime.now(UTC) + lives).isoformat()}))
    fresh.replace(folder / "answer")


def is_refused(store: S3Objects) -> bool:
    try:
        store.get(MARKER)
    except ObjectError as error:
        assert error.errno == errno.EACCES
        return True
    return False


@pytest.fixture
def process_folder(s3_keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where the process finds its `answer`; there are no other keys."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    (tmp_path / "config").write_text(f"[default]\ncredential_process = /bin/cat {tmp_path}/answer\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "none"))
    return tmp_path


def test_keys_that_end_soon_are_asked_for_again(url: str, gateway: Gateway, process_folder: Path) -> None:
    """The old ones are refused from then on, so that it is by the new ones, of a session, that the store goes on."""
    lives = timedelta(minutes=4)
    gateway.admin("key", "create", "--uid=tester", "--key-type=s3", "--access-key=brief", "--secret-key=secret")
    gives_keys(process_folder, SessionKeys("brief", "secret", ""), lives)
    with opened(url) as store:
        assert not is_refused(store)
        gateway.admin("key", "rm", "--uid=tester", "--key-type=s3", "--access-key=brief")
        wait(lambda: is_refused(store), "the gateway goes on with keys that are gone")
        gives_keys(process_folder, gateway.session(), lives)
        wait(lambda: not is_refused(store), "the new keys are not taken up")
        store.put("packs/00/one", [b"one"])
        assert store.get("packs/00/one") == b"one"


def test_keys_of_a_session_are_used_with_their_token(url: str, gateway: Gateway, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = gateway.session()
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", keys.access)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", keys.secret)
    assert "InvalidAccessKeyId" in message(ObjectError, url)
    monkeypatch.setenv("AWS_SESSION_TOKEN", keys.token)
    with opened(url) as store:
        store.put("packs/00/one", [b"one"])
        assert store.get("packs/00/one") == b"one"


def test_keys_that_last_are_kept_for_a_while(process_folder: Path) -> None:
    """What asks a process or a server for keys is not started for each request."""
    for lives, kept in ((timedelta(hours=1), timedelta(minutes=5)), (timedelta(minutes=4), timedelta(seconds=5))):
        gives_keys(process_folder, SessionKeys("some", "key", "token"), lives)
        given = Keys().settings()["credential_provider"]()
        assert (given["access_key_id"], given["secret_access_key"], given["token"]) == ("some", "key", "token")
        asked_in = given["expires_at"] - datetime.now(UTC) - timedelta(minutes=5)
        assert kept - timedelta(seconds=4) < asked_in <= kept
        assert asked_in < lives


@pytest.mark.parametrize("package", ["obstore.exceptions", "botocore.session"])
def test_missing_packages_get_one_line(package: str, s3_keys: None, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.delitem(sys.modules, "cairnfs.objects.s3")
    monkeypatch.setitem(sys.modules, package, None)
    assert "pip install 'cairnfs[s3]'" in message(VolumeError, "http://127.0.0.1:9/bucket")


def test_a_volume_in_a_folder_does_not_pay_for_s3(tmp_path: Path) -> None:
    program = (
        "import sys; from cairnfs.volume import *; "
        "fmt = new_format('volume', bucket=sys.argv[1]); format_volume(sys.argv[2], fmt); open_volume(sys.argv[2]).close(); "
        "print([name for name in sys.modules if name.startswith(('obstore', 'botocore', 'cairnfs.objects.s3_keys'))])"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "bucket"), f"sqlite3://{tmp_path}/meta.db"]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip() == "[]"
