"""The session that the processes of a mount have one after another, when one of them is killed while it ends it."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.const import MIB
from cairnfs.daemon.heartbeat import shared_session
from cairnfs.ext.arena import Arena
from cairnfs.meta.process import this_process
from cairnfs.types import SessionId
from cairnfs.vfs.carried import Carried
from cairnfs.volume import Volume, open_volume
from support.engine import TEST_OPTIONS, new_volume

MOUNTPOINT = Path("/somewhere")


class Killed(BaseException):
    """What follows is not run."""


@pytest.fixture
def url(tmp_path: Path) -> str:
    return new_volume(tmp_path, "sqlite")


@pytest.fixture
def carried() -> Carried:
    return Carried(Arena(8 * MIB), MIB)


@pytest.fixture(params=["before the session is closed", "after it"])
def killed_late(request: pytest.FixtureRequest, url: str, carried: Carried) -> Iterator[SessionId]:
    """The session of a process that was killed while it ended."""
    with open_volume(url, TEST_OPTIONS) as volume:
        sessions = volume.meta.sessions
        close = sessions.close

        def closing() -> None:
            if request.param == "after it":
                close()
            raise Killed

        ending = shared_session(volume, MOUNTPOINT, carried, this_process())
        with pytest.MonkeyPatch.context() as patch, pytest.raises(Killed), ending:
            patch.setattr(sessions, "close", closing)
        yield SessionId(carried.session)


def of(volume: Volume) -> list[SessionId]:
    return [session.id for session in volume.meta.sessions.list()]


def test_nothing_is_lost_with_a_process_killed_while_it_ends_its_session(
    url: str, carried: Carried, killed_late: SessionId, caplog: pytest.LogCaptureFixture
) -> None:
    with open_volume(url, TEST_OPTIONS) as volume:
        with shared_session(volume, MOUNTPOINT, carried, this_process()) as session:
            assert of(volume) == [session]
        assert of(volume) == []
    assert not [record.message for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_session_that_goes_while_its_successor_is_at_work_is_a_loss(
    url: str, carried: Carried, killed_late: SessionId, caplog: pytest.LogCaptureFixture, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("taken for dead")
    with open_volume(url, TEST_OPTIONS) as volume, shared_session(volume, MOUNTPOINT, carried, this_process()):
        closing = carried.closing
    carried.closing = closing  # as it is when somebody else cleans up, and nobody ends
    with open_volume(url, TEST_OPTIONS) as volume, shared_session(volume, MOUNTPOINT, carried, this_process()):
        pass
    assert [record.message for record in caplog.records if "taken for dead" in record.message]
