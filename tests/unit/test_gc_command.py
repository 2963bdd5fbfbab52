"""`cairnfs gc`: how old an object must be, beside the time that is given."""

import json
import os
import time
from pathlib import Path

import pytest

from cairnfs.data.pack import pack_name
from cairnfs.meta.process import Process
from cairnfs.volume import open_volume
from support.engine import TEST_OPTIONS, new_volume
from support.mounts import cairnfs

SILENT_S = 3600
ELSEWHERE = Process("elsewhere", "another boot", "another namespace", 1, 1)


def collected(url: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(cairnfs("gc", url, "--json", "--delete", "--grace", "0", fork=True).stdout)
    return found


def test_what_a_mount_has_stored_stays_until_somebody_has_cleaned_up_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may be stopped, and go on: then it commits what it had stored."""
    url = new_volume(tmp_path, "sqlite")
    with open_volume(url, TEST_OPTIONS) as volume:
        sessions = volume.meta.sessions
        with monkeypatch.context() as patch:
            then_ns = time.time_ns() - 2 * SILENT_S * 10**9
            patch.setattr(sessions, "now_ns", lambda: then_ns)
            session = sessions.open("/mnt", "0", ELSEWHERE)
        volume.objects.put(pack_name(volume.meta.ids.pack()), [b"about to be named"])
        (stored,) = (path for path in tmp_path.rglob("packs/*/*") if path.is_file())
        os.utime(stored, (time.time() - SILENT_S,) * 2)
        found = collected(url)
        assert (found["unknown_objects"], found["young_objects"]) == (0, 1)
        assert stored.exists()
        sessions._clean(session)
        assert collected(url)["unknown_objects"] == 1
        assert not stored.exists()
