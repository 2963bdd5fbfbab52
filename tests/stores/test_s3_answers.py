"""What servers of S3, and balancers before them, answer besides what was asked for: it is told from an answer, and passes."""

import random
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from itertools import count

import pytest
from conftest import ExpectedLogs

from cairnfs.clock import SystemClock
from cairnfs.errors import ObjectError, VolumeError
from cairnfs.objects import MARKER, create_bucket, destroy_bucket, open_objects
from cairnfs.objects.retry import Retrying
from cairnfs.objects.s3 import S3Objects
from cairnfs.volume import new_format
from support.gateway import Gateway, S3Proxy, answered

_names = count()
NO_SERVERS = answered("404 Not Found", body=b"404 page not found\n")
MAINTENANCE = answered("200 OK", body=b"<html>\n<body>Back soon.</body>\n</html>\n")
ELSEWHERE = answered("301 Moved Permanently", "PermanentRedirect")
WRONG_REGION = answered(
    "400 Bad Request",
    body=b"<Error><Code>AuthorizationHeaderMalformed</Code><Message>the region 'a' is wrong; expecting 'b'</Message></Error>",
)
PACKS = "packs/"


@pytest.fixture
def proxy(gateway: Gateway) -> Iterator[S3Proxy]:
    made = S3Proxy(gateway.url)
    yield made
    made.close()


@pytest.fixture
def store(proxy: S3Proxy, expected_logs: ExpectedLogs) -> Iterator[Retrying]:
    """That of a volume, through the proxy, which knows already that the server has conditions."""
    expected_logs.add("trying again")
    made = S3Objects(f"{proxy.url}/answers-{next(_names)}", "volume", None, 20.0)
    made.prepare()
    made.put(MARKER, [b"x"])
    store = Retrying(made, 20.0, SystemClock(), random.Random(1))
    yield store
    store.close()


@pytest.mark.parametrize("code", ["ConditionalRequestConflict", "OperationAborted"])
def test_a_conflict_passes(code: str, proxy: S3Proxy, store: Retrying) -> None:
    """So it is when an attempt was given up which the server still works on."""
    conflict = answered("409 Conflict", code)
    proxy.instead(conflict, "PUT", n=2)
    store.put("packs/00/one", [b"one"])
    for method, use in (("GET", store.get), ("HEAD", store.head), ("DELETE", store.delete)):
        proxy.instead(conflict, method, n=2, part=PACKS)
        use("packs/00/one")
        assert proxy.n_left == 0


def test_a_store_of_which_the_balancer_knows_no_server_passes(proxy: S3Proxy, store: Retrying) -> None:
    proxy.instead(NO_SERVERS, "PUT", n=2)
    store.put("packs/00/one", [b"one"])
    assert store.get("packs/00/one") == b"one"
    assert proxy.n_left == 0


def test_a_page_for_people_is_no_listing_and_no_marker(proxy: S3Proxy, store: Retrying) -> None:
    """The client takes what it does not know for an empty listing, or the end of one."""
    names = [f"packs/{n:02x}/{n:016x}" for n in range(3)]
    for name in names:
        store.put(name, [b"x"])
    for n_pages in (1, 2):
        proxy.instead(MAINTENANCE, "GET", n=n_pages, part="?list-type")
        assert [info.name for info in store.list("packs/")] == names
        assert proxy.n_left == 0
    proxy.instead(MAINTENANCE, "GET", n=1, part=MARKER)
    with pytest.raises(ObjectError, match="no volume's marker"):
        store.check()


def test_nothing_is_destroyed_by_what_is_no_listing(proxy: S3Proxy, expected_logs: ExpectedLogs) -> None:
    expected_logs.add("trying again")
    fmt = new_format("volume", storage="s3", bucket=f"{proxy.url}/answers-{next(_names)}")
    create_bucket(fmt)
    store = open_objects(fmt, 20.0)
    store.put("packs/00/0000000000000001", [b"x"])
    store.close()
    for answer, part, says in ((NO_SERVERS, "?list-type", "cannot list"), (MAINTENANCE, "", "no volume's marker")):
        proxy.instead(answer, part=part)
        with pytest.raises(ObjectError, match=says) as caught:
            destroy_bucket(fmt)
        assert "\n" not in str(caught.value)
    with pytest.raises(VolumeError, match="are not at .* no volume's marker"):
        open_objects(fmt, 0.5)
    proxy.instead(MAINTENANCE, "GET", n=1, part="?list-type")
    assert destroy_bucket(fmt) == 1


@pytest.mark.parametrize("code", ["RequestTimeTooSkewed", "ExpiredToken"])
def test_a_clock_that_is_wrong_for_a_moment_is_no_refusal(code: str, proxy: S3Proxy, store: Retrying) -> None:
    """As after a machine was suspended; the keys are all right. So are those that are about to be renewed."""
    refusal = answered("403 Forbidden", code)
    proxy.instead(refusal, "PUT", n=2)
    store.put("packs/00/one", [b"one"])
    proxy.instead(refusal, "GET", n=2, part=PACKS)
    assert store.get("packs/00/one") == b"one"
    proxy.instead(refusal, n=2)  # a HEAD, and what is asked because of it
    assert store.head("packs/00/one").size == 3
    assert proxy.n_left == 0


def test_a_clock_that_stays_wrong_is_named_when_a_volume_is_opened(proxy: S3Proxy) -> None:
    fmt = new_format("volume", storage="s3", bucket=f"{proxy.url}/answers-{next(_names)}")
    create_bucket(fmt)
    proxy.instead(answered("403 Forbidden", "RequestTimeTooSkewed"))
    with pytest.raises(VolumeError, match="correct the clock of this machine"):
        open_objects(fmt, 60.0)
    assert proxy.counts["GET"] < 5  # it does not pass by waiting


@pytest.mark.parametrize("answer", [ELSEWHERE, WRONG_REGION])
def test_a_bucket_of_another_region_is_named(answer: bytes, proxy: S3Proxy) -> None:
    """As Amazon answers then: without a place to go to, or with what it expected."""
    fmt = new_format(
        "volume", storage="s3", bucket=f"{proxy.url}/answers-{next(_names)}", storage_options={"region": "eu-north-9"}
    )
    create_bucket(fmt)
    proxy.instead(answer)
    with pytest.raises(VolumeError, match="not in region eu-north-9: name its own with --region"):
        open_objects(fmt, 60.0)
    assert proxy.counts["GET"] < 5  # it does not pass by waiting


def test_a_listing_whose_every_second_page_fails_goes_on(proxy: S3Proxy, store: Retrying, gateway: Gateway) -> None:
    """Also where a page is not whole, because of keys of others."""
    assert isinstance(store._store, S3Objects)
    direct = S3Objects(f"{gateway.url}/{store._store._bucket}", "volume", None, 20.0)
    names = [f"packs/{n % 256:02x}/{n:016x}" for n in range(2300)] + ["packs/Foo Bar", "packs/README.txt"]
    with ThreadPoolExecutor(16) as pool:
        for _ in pool.map(lambda name: direct._client.put(name, b"x"), names):
            pass
    direct.close()
    proxy.instead(answered("503 Slow Down", "SlowDown"), "GET", part="continuation-token")
    assert [info.name for info in store.list("packs/")] == sorted(names)
