"""What servers of S3, and balancers before them, answer besides what was asked for: it is told from an answer, and passes."""

import random
from collections.abc import Iterator
from itertools import count

import pytest
from conftest import ExpectedLogs

from cairnfs.clock import SystemClock
from cairnfs.objects import MARKER
from cairnfs.objects.retry import Retrying
from cairnfs.objects.s3 import S3Objects
from support.gateway import Gateway, S3Proxy, answered

_names = count()
NO_SERVERS = answered("404 Not Found", body=b"404 page not found\n")
MAINTENANCE = answered("200 OK", body=b"<html>\n<body>Back soon.</body>\n</html>\n")
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
