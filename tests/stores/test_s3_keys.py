"""Keys for S3 that come from programs and files which fail, hang, or are written anew while a volume is open."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from itertools import count
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.errors import ObjectError
from cairnfs.objects import MARKER, s3_keys
from cairnfs.objects.s3 import S3Objects
from support.gateway import ACCESS, SECRET, Gateway
from support.mounts import cairnfs
from support.storing import wait

_names = count()
IO_TIMEOUT_S = 2.0


class Program:
    """That of credential_process. It says what `gives` was told, once nothing is in its way, or half a minute later."""

    def __init__(self, folder: Path) -> None:
        self.answer = folder / "answer"
        self.blocked = folder / "blocked"
        path = folder / "program"
        path.write_text(
            f"#!/bin/sh\nn=0\nwhile [ -e {self.blocked} -a $n -lt 300 ]; do sleep 0.1; n=$((n + 1)); done\ncat {self.answer}\n"
        )
        path.chmod(0o755)
        (folder / "config").write_text(f"[default]\ncredential_process = {path}\n")

    def gives(self, access: str = ACCESS, token: str = "", *, lives: timedelta = timedelta(minutes=4)) -> None:
        ends = (datetime.now(UTC) + lives).isoformat()
        said = {"Version": 1, "AccessKeyId": access, "SecretAccessKey": SECRET, "SessionToken": token, "Expiration": ends}
        fresh = self.answer.with_suffix(".new")
        fresh.write_text(json.dumps(said))
        fresh.replace(self.answer)


@pytest.fixture
def files(s3_keys: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Where AWS's tools look; there are no other keys. They are asked for at once."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    return tmp_path


@pytest.fixture
def program(files: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    for name in ("ASK_AGAIN", "ASK_SOON"):
        monkeypatch.setattr(s3_keys, name, timedelta())
    made = Program(files)
    made.gives()
    yield made
    made.blocked.unlink(missing_ok=True)


def opened(gateway: Gateway) -> S3Objects:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("AWS_ACCESS_KEY_ID", ACCESS)
        patch.setenv("AWS_SECRET_ACCESS_KEY", SECRET)
        made = S3Objects(f"{gateway.url}/keys-{next(_names)}", "volume", None, 20.0)
        made.prepare()
        made.put(MARKER, [b"x"])
        made.close()
    return S3Objects(made.where.removesuffix("/volume"), "volume", None, IO_TIMEOUT_S)


def says(store: S3Objects) -> str:
    """What is wrong with reading; empty when nothing is."""
    try:
        store.get(MARKER)
    except ObjectError as error:
        assert "\n" not in str(error)
        return str(error)
    return ""


def test_keys_go_on_being_used_while_there_are_no_new_ones(
    gateway: Gateway, program: Program, expected_logs: ExpectedLogs
) -> None:
    expected_logs.add("keys for S3 cannot be renewed, going on with those of before")
    expected_logs.add("Refreshing temporary credentials failed")  # botocore's, which no log of a mount has
    store = opened(gateway)
    assert not says(store)
    program.answer.write_text("nonsense")
    assert not says(store)
    program.gives(token="a\nb")
    assert not says(store)
    program.gives()
    program.blocked.touch()
    assert not says(store)
    store.close()


def test_keys_that_end_while_a_program_hangs_are_an_error_in_time(gateway: Gateway, program: Program) -> None:
    program.gives(lives=timedelta(seconds=1))
    store = opened(gateway)
    program.blocked.touch()
    wait(lambda: "the keys cannot be had: nothing has come in 1 s" in says(store), "keys that have ended go on being used")
    began_s = time.monotonic()
    assert "cannot be had" in says(store)  # whoever comes later does not wait as long again
    assert time.monotonic() - began_s < 10
    program.gives()
    program.blocked.unlink()
    wait(lambda: not says(store), "the new keys are not taken up")
    store.close()


def test_a_line_end_in_a_token_is_an_error(gateway: Gateway, program: Program) -> None:
    program.gives(token="a\nb")
    store = opened(gateway)
    assert "the token begins or ends with a blank, or has a line end" in says(store)
    program.gives(access=f"{ACCESS}\n")
    assert "the access key begins or ends" in says(store)
    program.gives()
    assert not says(store)
    store.close()


def test_keys_of_a_file_are_read_again(gateway: Gateway, files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tools write keys of sessions into it, time and again."""
    monkeypatch.setattr(s3_keys, "ASK_AGAIN", timedelta(seconds=0.1))
    file = files / "credentials"
    gateway.admin("key", "create", "--uid=tester", "--key-type=s3", "--access-key=filed", "--secret-key=secret")
    file.write_text("[default]\naws_access_key_id = filed\naws_secret_access_key = secret\n")
    store = opened(gateway)
    assert not says(store)
    gateway.admin("key", "rm", "--uid=tester", "--key-type=s3", "--access-key=filed")
    wait(lambda: "check the keys" in says(store), "the gateway goes on with keys that are gone")
    keys = gateway.session()
    lines = ("access_key_id", keys.access), ("secret_access_key", keys.secret), ("session_token", keys.token)
    file.write_text("".join(["[default]\n", *(f"aws_{name} = {key}\n" for name, key in lines)]))
    wait(lambda: not says(store), "the new keys are not taken up")
    store.close()


def test_a_program_that_says_nonsense_gets_one_line(gateway: Gateway, program: Program, tmp_path: Path) -> None:
    program.answer.write_text("nonsense")
    url = f"{gateway.url}/keys-{next(_names)}"
    done = cairnfs("format", f"sqlite3://{tmp_path}/meta.db", "none", "--storage", "s3", "--bucket", url, check=False)
    assert done.returncode == 1
    assert done.stderr.startswith("cairnfs: the keys for S3 cannot be found")
    assert done.stderr.count("\n") == 1
