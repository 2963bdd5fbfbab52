"""What several files here begin with."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from support.compiled import Asking, Node
from support.engine import new_volume


@pytest.fixture
def node(tmp_path: Path) -> Iterator[Node]:
    """An engine on SQLite whose requests come over a socket."""
    node = Node(new_volume(tmp_path, "sqlite"))
    yield node
    node.engine.close()


@pytest.fixture
def kernel(node: Node) -> Iterator[Asking]:
    """Who asks it."""
    with node.asks() as peer:
        peer.init()
        yield Asking(peer)
