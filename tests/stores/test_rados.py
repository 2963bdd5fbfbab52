"""What only pools have: orders of names, neighbours in one pool, users, a cluster that cannot be used."""

import errno
import json
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest
from conftest import ExpectedLogs

from cairnfs.errors import ObjectError, ObjectMissing, VolumeError
from cairnfs.ext import rados_io
from cairnfs.objects import MARKER, ordering, rados
from cairnfs.objects.base import Delete, Get, Put
from cairnfs.objects.rados import Access, RadosStore
from support.ceph_server import CephCluster
from support.mounts import cairnfs
from support.storing import failure, wait

_names = count()
Opener = Callable[[Access], RadosStore]
N_BYTES = 100_000
N_STEPS = 20


@pytest.fixture
def opened() -> Iterator[Opener]:
    """Opens a volume's place of its own, with a marker; closed at the end."""
    stores: list[RadosStore] = []

    def opener(access: Access) -> RadosStore:
        store = RadosStore(access, f"rados-{next(_names)}", 20.0)
        stores.append(store)
        store.put(MARKER, [b"uuid"])
        return store

    yield opener
    for store in stores:
        store.close()


@pytest.fixture
def store(opened: Opener, open_pool: Access) -> RadosStore:
    return opened(open_pool)


def names_of(store: RadosStore, prefix: str = "") -> list[str]:
    return [info.name for info in store.list(prefix)]


def test_more_names_than_a_run_are_listed_in_order(store: RadosStore, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ordering, "RUN_NAMES", 50)
    monkeypatch.setattr(rados, "LOOKED_AT", 32)
    names = [f"packs/{i % 7:02x}/{i * 7919 % 307:016x}" for i in range(307)]
    for name in names:
        store.put(name, [name.encode()[: 1 + len(name) % 5]])
    assert names_of(store, "packs/") == sorted(names)


def test_volumes_of_one_pool_do_not_see_each_other(opened: Opener, open_pool: Access) -> None:
    one, other = opened(open_pool), opened(open_pool)
    elsewhere = opened(open_pool._replace(namespace="elsewhere"))
    one.put("packs/00/x", [b"one"])
    assert names_of(other) == names_of(elsewhere) == [MARKER]
    with pytest.raises(ObjectMissing):
        other.get("packs/00/x")
    assert one.where == f"pool open/{one._prefix[:-1]}"
    assert elsewhere.where.startswith("pool open/elsewhere/")


def test_objects_that_cannot_be_ours_are_not_listed(store: RadosStore, open_pool: Access) -> None:
    pool = rados_io.Pool(open_pool.pool, "client.admin", open_pool.conf, "", {})
    for name in ("Upper", "new\nline", ".hidden", "\u00e9"):
        pool.put(store._prefix + name, [b"x"])
    store.put("packs/00/x", [b"x"])
    assert names_of(store) == [MARKER, "packs/00/x"]


def test_a_place_is_vacant_until_something_is_in_it(store: RadosStore) -> None:
    store.put("packs/00/x", [b"x"])
    store.delete(MARKER)
    assert not store.vacant()
    store.delete("packs/00/x")  # the marker is gone already: whose place it is, is not asked
    assert store.vacant() and store.present()


def test_a_large_object_comes_back_whole_and_in_pieces(store: RadosStore) -> None:
    data = bytes(range(256)) * (4 << 12)
    store.put("packs/00/large", [memoryview(data)[:1], memoryview(data)[1:77], memoryview(data)[77:]])
    assert store.get("packs/00/large") == store.get("packs/00/large", 0, len(data)) == data
    assert store.get("packs/00/large", 1_000_003, 4097) == data[1_000_003 : 1_000_003 + 4097]
    assert store.get("packs/00/large", len(data) - 5, 1 << 20) == data[-5:]


def n_connections() -> int:
    """To Ceph, of this process: each has a thread of this name."""
    return [task.read_text() for task in Path("/proc/self/task").glob("*/comm")].count("msgr-worker-0\n")


CALLS: dict[str, Callable[[RadosStore], object]] = {
    "get": lambda store: store.get("packs/00/x", 1000, N_BYTES),
    "put": lambda store: store.put("packs/00/y", [bytes(N_BYTES)]),
    "head": lambda store: store.head("packs/00/x"),
    "delete": lambda store: store.delete("packs/00/x"),
    "list": names_of,
    "many": lambda store: list(store.many([Get("packs/00/x", 1000, N_BYTES), Delete("packs/00/x")])),
}


@pytest.mark.parametrize("call", CALLS)
def test_other_threads_run_on_while_one_waits_for_the_osd(
    store: RadosStore, osd_stopped: Callable[[bool], None], call: str
) -> None:
    """A call that held the GIL would let this thread go on only when it is over: it has then failed."""
    data = bytes(range(256)) * (N_BYTES // 256 + 4)
    store.put("packs/00/x", [data])
    answers: list[object] = []
    begun = threading.Event()

    def ask() -> None:
        begun.set()
        try:
            answers.append(CALLS[call](store))
        except ObjectError as error:
            answers.append(error)

    asking = threading.Thread(target=ask)
    osd_stopped(True)
    asking.start()
    begun.wait()
    for _ in range(N_STEPS):
        time.sleep(0.02)  # each step gives the GIL away, and has to get it back
    assert asking.is_alive() and answers == []
    osd_stopped(False)
    asking.join(30)
    assert len(answers) == 1 and not isinstance(answers[0], ObjectError)
    if call == "get":
        assert answers == [data[1000 : 1000 + N_BYTES]]


def test_a_pool_that_is_gone_is_a_failure_and_no_missing_object(opened: Opener, open_ceph: CephCluster) -> None:
    store = opened(Access(open_ceph.make_pool("brief"), str(open_ceph.conf)))
    store.put("packs/00/x", [b"x"])
    open_ceph.ceph("osd", "pool", "delete", "brief", "brief", "--yes-i-really-really-mean-it")
    for use in (
        lambda: store.put("packs/00/y", [b"y"]),
        lambda: store.get("packs/00/x"),
        lambda: store.head("packs/00/x"),
        lambda: store.delete("packs/00/x"),
        store.check,
    ):
        with pytest.raises(ObjectError) as caught:
            use()
        assert not isinstance(caught.value, ObjectMissing)
        assert caught.value.errno == errno.EIO


def test_a_pool_that_is_made_anew_is_used_when_it_has_the_marker(
    opened: Opener, open_ceph: CephCluster, monkeypatch: pytest.MonkeyPatch, expected_logs: ExpectedLogs
) -> None:
    """As it is when a pool is restored from a copy. Until that is done nothing is stored in it."""
    monkeypatch.setattr(rados, "RENEWAL_S", 0.0)
    expected_logs.add(f"pool 'anew' does not exist|object {MARKER} does not exist|holds the objects of another volume now")

    def outcomes() -> list[object]:
        """Of a request of each kind: errnos of failures."""
        several = [Get("packs/00/x", 0, 9), Delete("packs/00/gone"), Put(f"packs/00/m{next(_names)}", [b"m"])]
        one = [failure(call) for call in (lambda: store.get("packs/00/x"), lambda: store.delete("packs/00/gone"), store.check)]
        one += [failure(lambda: names_of(store)), failure(lambda: store.put(f"packs/00/p{next(_names)}", [b"p"]))]
        return one + [error.errno if isinstance(error, ObjectError) else None for _, error in store.many(several)]

    access = Access(open_ceph.make_pool("anew"), str(open_ceph.conf))
    store = opened(access)
    assert store.get(MARKER) == b"uuid"
    store.put("packs/00/x", [b"x"])
    assert outcomes() == [None] * 8
    open_ceph.ceph("osd", "pool", "delete", "anew", "anew", "--yes-i-really-really-mean-it")
    assert outcomes() == [errno.EIO] * 8
    open_ceph.make_pool("anew")
    assert outcomes() == [errno.EIO] * 8
    restored = rados_io.Pool("anew", "client.admin", access.conf, "", {})
    assert list(restored.names("")) == []
    restored.put(store._prefix + "packs/00/x", [b"x"])
    restored.put(store._prefix + MARKER, [b"another"])
    assert outcomes() == [errno.EIO] * 8
    restored.remove(store._prefix + MARKER)
    restored.put(store._prefix + MARKER, [b"uuid"])
    assert outcomes() == [None] * 8


def test_a_blocklisted_client_connects_anew(opened: Opener, open_ceph: CephCluster, open_pool: Access) -> None:
    store = opened(open_pool)
    before = n_connections()
    # This process's session is the newest of a client's (managers have some), but for that of the command which lists them.
    sessions = json.loads(open_ceph.ceph("tell", "mon.a", "sessions", "--format", "json"))
    addresses = [session["addrs"]["addrvec"][0] for session in sessions if session["entity_name"].startswith("client.")]
    for address in addresses[-3:]:
        open_ceph.ceph("osd", "blocklist", "add", f"{address['addr']}/{address['nonce']}", "600")
    deadline_s = time.monotonic() + 20
    with pytest.raises(ObjectError, match="has blocklisted this client") as caught:
        while time.monotonic() < deadline_s:
            store.get(MARKER)
    assert caught.value.errno == errno.EIO
    assert store.get(MARKER) == b"uuid"
    assert n_connections() == before  # whoever keeps the error keeps no connection


def test_a_key_that_was_away_is_used_again(shared_ceph: CephCluster, tmp_path: Path, expected_logs: ExpectedLogs) -> None:
    """librados asks no monitor any more that has refused it, and so hears of no OSD that has come back."""
    expected_logs.add("the Ceph cluster refuses client.keyed")
    pool = shared_ceph.make_pool("keyed")
    shared_ceph.make_user("keyed", pool)
    kept = tmp_path / "kept"
    kept.write_text(shared_ceph.ceph("auth", "export", "client.keyed"))
    store, names = RadosStore(Access(pool, str(shared_ceph.conf), "keyed"), "vol", 4.0), count()
    try:
        store.put(MARKER, [b"uuid"])
        shared_ceph.ceph("auth", "rm", "client.keyed")
        connection = store._pool
        assert connection is not None
        shared_ceph.kill("mon")
        shared_ceph.start("mon")
        wait(lambda: failure(connection.ask_monitors) == errno.ETIMEDOUT, "the monitor goes on with a user that is gone")
        shared_ceph.kill("osd")
        shared_ceph.start("osd")
        assert failure(lambda: store.put(f"packs/00/{next(names)}", [b"x"])) == errno.EIO
        shared_ceph.ceph("auth", "import", "-i", str(kept))
        wait(lambda: failure(lambda: store.put(f"packs/00/{next(names)}", [b"x"])) is None, "the key is not used again")
        assert store.get(MARKER) == b"uuid"
    finally:
        store.close()
        shared_ceph.wait_for_osd()


def test_what_a_user_may_do_is_asked_again(shared_ceph: CephCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """A connection keeps what was true when it was made, for an hour."""
    monkeypatch.setattr(rados, "RENEWAL_S", 0.0)
    pool = shared_ceph.make_pool("changing")
    shared_ceph.make_user("changing", pool)
    asked: list[str] = []

    def may(what: str) -> None:
        shared_ceph.ceph("auth", "caps", "client.changing", "mon", "allow r", "osd", f"allow {what} pool={pool}")

    def puts() -> Iterator[Put]:
        for i in range(3):
            asked.append(f"packs/00/{len(asked)}")
            yield Put(asked[-1], [b"%d" % i])

    RadosStore(Access(pool, str(shared_ceph.conf), "changing"), "vol", 20.0).put(MARKER, [b"uuid"])
    may("r")
    store = RadosStore(Access(pool, str(shared_ceph.conf), "changing"), "vol", 20.0)
    try:
        with pytest.raises(ObjectError, match="client.changing may not, see 'ceph auth get client.changing'") as caught:
            store.put("packs/00/x", [b"x"])
        assert caught.value.errno == errno.EACCES
        assert [error.errno for _, error in store.many(puts()) if error] == [errno.EACCES] * 3
        n_before = n_connections()
        may("rw")
        assert [error for _, error in store.many(puts()) if error] == []
        assert n_connections() == n_before
        may("r")
        store._pool = store._connect()
        assert failure(lambda: store.put("packs/00/x", [b"x"])) == errno.EACCES
        may("rw")
        store.put("packs/00/x", [b"x"])
        assert names_of(store) == [MARKER, *asked[3:], "packs/00/x"]
    finally:
        store.close()


def test_what_a_user_may_not_do_is_eacces(opened: Opener, guarded_pool: Access) -> None:
    with pytest.raises(ObjectError) as caught:
        opened(guarded_pool._replace(namespace="other"))
    assert caught.value.errno == errno.EACCES


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"pool": "nowhere"}, "ceph osd pool create nowhere"),
        ({"user": "nobody"}, "refuses client.nobody"),
        ({"user": "bad.name"}, "'bad.name' cannot be a user"),
        ({"conf": "/nowhere.conf"}, "at /nowhere.conf: name the file by --ceph-conf or CEPH_CONF"),
    ],
)
def test_what_is_wrong_with_the_access_is_said(guarded_pool: Access, changed: dict[str, str], says: str) -> None:
    with pytest.raises(VolumeError, match=says) as caught:
        RadosStore(guarded_pool._replace(**changed), "vol", 5.0)
    assert "\n" not in str(caught.value)


def test_keyrings_that_do_not_fit_are_said(guarded_pool: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CEPH_KEYRING", f"{tmp_path}/none")
    with pytest.raises(VolumeError, match="no key for client.admin was found: look at its keyring"):
        RadosStore(guarded_pool._replace(user=None), "vol", 5.0)
    wrong = tmp_path / "keyring"
    wrong.write_text("[client.admin]\n\tkey = AQBhYmNkYWJjZBAAYWJjZGFiY2RhYmNkYWJjZA==\n")
    monkeypatch.setenv("CEPH_KEYRING", str(wrong))
    with pytest.raises(VolumeError, match="refuses client.admin"):
        RadosStore(guarded_pool._replace(user=None), "vol", 5.0)
    wrong.write_text("[client.admin]\n\tkey = none\n")
    with pytest.raises(VolumeError, match="the key of client.admin cannot be read: look at its keyring"):
        RadosStore(guarded_pool._replace(user=None), "vol", 5.0)


def test_monitors_without_an_address_are_said(tmp_path: Path) -> None:
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nmon host = monitor.invalid\n")
    with pytest.raises(VolumeError, match=f"the 'mon host' of {conf} has no address: correct it"):
        RadosStore(Access("p", str(conf)), "vol", 5.0)


def test_the_environment_names_cluster_and_user(guarded_pool: Access, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def formatted(number: int, conf: str | None, args: str) -> str:
        """What the formatting of a volume says; librados reads CEPH_ARGS once in the life of a process."""
        monkeypatch.setenv("CEPH_CONF", conf or "/nowhere.conf")
        monkeypatch.setenv("CEPH_ARGS", args)
        place = ("--storage", "rados", "--bucket", guarded_pool.pool, "--namespace", guarded_pool.namespace)
        done = cairnfs("format", f"sqlite3://{tmp_path}/{number}.db", f"environment-{number}", *place, check=False)
        assert done.returncode == bool(done.stderr)
        return done.stderr

    assert formatted(1, guarded_pool.conf, "--id trainer") == ""
    assert formatted(2, None, f"-n client.trainer --conf={guarded_pool.conf}") == ""
    assert "names monitors at /nowhere.conf" in formatted(3, None, "--id trainer")
    assert "refuses client.nobody" in formatted(4, guarded_pool.conf, "--user nobody")
    assert "CEPH_ARGS cannot be read" in formatted(5, guarded_pool.conf, "--id 'x")


def test_a_monitor_that_does_not_answer_is_given_up_soon(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rados, "CONNECT_TIMEOUT_S", 2)
    conf = tmp_path / "ceph.conf"
    conf.write_text("[global]\nmon host = v2:127.0.0.1:1\n")
    started_s = time.monotonic()
    with pytest.raises(VolumeError, match="no monitor of the Ceph cluster"):
        RadosStore(Access("p", str(conf)), "vol", 60.0)
    assert time.monotonic() - started_s < 30


@pytest.mark.parametrize(
    ("options", "code", "says"),
    [
        (["--storage", "rados"], 2, "--storage rados needs --bucket"),
        (["--namespace", "x"], 2, "--namespace is not for --storage file"),
        (["--ceph-user", "x", "--bucket", "/nowhere"], 2, "--ceph-user is not for --storage file"),
        (["--storage", "rados", "--bucket", "p", "--ceph-conf", "/nowhere.conf"], 1, "names monitors at /nowhere.conf"),
    ],
)
def test_options_that_do_not_fit_are_one_line(tmp_path: Path, options: list[str], code: int, says: str) -> None:
    done = cairnfs("format", f"sqlite3://{tmp_path}/m.db", "vol", *options, check=False)
    assert done.returncode == code
    assert done.stderr.count("\n") == 1 and says in done.stderr


def test_the_version_of_librados_is_shown(open_ceph: CephCluster) -> None:
    shown = json.loads(cairnfs("version", "--json").stdout)["librados"]
    assert shown == rados_io.version() is not None
    assert f"librados {shown}" in cairnfs("version").stdout
