"""A mount whose volume was destroyed, and which has not noticed: it changes nothing in the next volume of the store."""

from pathlib import Path

import pytest

from cairnfs.errors import StoreError
from cairnfs.volume import destroy_volume, format_volume, new_format
from support.engine import Engine
from support.redis_server import RedisServer


@pytest.fixture(params=["sqlite", "redis"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite3://{tmp_path}/meta.db"
    server: RedisServer = request.getfixturevalue("redis_server")
    return f"{server.url}/5"


def make(url: str, folder: Path) -> str:
    """A volume in a store; returns its uuid."""
    fmt = new_format("volume", bucket=str(folder))
    format_volume(url, fmt)
    return fmt.uuid


def test_it_makes_no_names_in_the_next_volume(url: str, tmp_path: Path) -> None:
    uuid = make(url, tmp_path)
    former = Engine(url)
    former.files.mkdir("before")
    destroy_volume(url, uuid, force=True)
    make(url, tmp_path)
    with Engine(url) as next_one:
        for late in (former.files.mkdir, former.files.create):
            with pytest.raises(StoreError, match="was destroyed"):
                late("late")
        assert next_one.files.names() == set()
        next_one.files.mkdir("after")
        assert next_one.files.names() == {"after"}
    former.abandon()
