"""`cairnfs gc`: how old an object must be, beside the time that is given."""

import json
import os
import time
from pathlib import Path

import pytest

from cairnfs.data.pack import pack_name
from cairnfs.meta.process import Process
from cairnfs.types import PackId
from cairnfs.volume import open_volume
from support.engine import TEST_OPTIONS, new_volume
from support.mounts import cairnfs

SILENT_S = 3600
ELSEWHERE = Process("elsewhere", "another boot", "another namespace", 1, 1)


def collected(url: str) -> dict[str, int]:
    found: dict[str, int] = json.loads(cairnfs("gc", url, "--json", "--delete", "--grace", "0", fork=True).stdout)
    return found


@pytest.mark.parametrize("is_known", [True, False])
def test_what_a_mount_has_stored_stays_until_somebody_has_cleaned_up_after_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, is_known: bool
) -> None:
    """It may be stopped, and go on: then it commits what it had stored. `is_known`: which packs are its own."""
    url = new_volume(tmp_path, "sqlite")
    with open_volume(url, TEST_OPTIONS) as volume:
        sessions = volume.meta.sessions
        if not is_known:
            take = volume.meta.core.ids.session
            monkeypatch.setattr(volume.meta.core.ids, "session", lambda: (take()[0], PackId(0)))
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


def test_what_a_mount_has_stored_stays_whatever_clocks_say(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of the object store is behind, or was when it was stored; a session that was lost and is there again is the same."""
    url = new_volume(tmp_path, "sqlite")
    with open_volume(url, TEST_OPTIONS) as volume:
        sessions, objects = volume.meta.sessions, volume.objects
        packs = [volume.meta.ids.pack()]  # by a session that is gone
        lost = sessions.open("/mnt", "0", ELSEWHERE)
        volume.meta.core.ids.forget()
        packs.append(volume.meta.ids.pack())
        sessions._clean(lost)
        sessions.renew()
        for pack in packs:
            objects.put(pack_name(pack), [b"about to be named"])
        for stored in (path for path in tmp_path.rglob("packs/*/*") if path.is_file()):
            os.utime(stored, (time.time() - 2 * SILENT_S,) * 2)
        found = collected(url)
        assert (found["unknown_objects"], found["young_objects"]) == (1, 1)
        assert [pack_name(pack) in {info.name for info in objects.list("packs/")} for pack in packs] == [False, True]
