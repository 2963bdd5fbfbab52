"""Range locks against a model that knows for every byte who locks it how."""

import fcntl

from hypothesis import given
from hypothesis import strategies as st

from cairnfs.meta.locks import changed, first_conflict
from cairnfs.meta.records import HeldLock, decode_locks, encode_locks
from cairnfs.meta.stores.base import Row
from cairnfs.types import Lock, Position, SessionId

N_BYTES = 16
Holder = tuple[int, int, bool]  # session, owner, flock
Bytes = dict[Holder, dict[int, int]]  # holder -> byte -> type

requests = st.builds(
    lambda session, kind, one, other, owner, flock: HeldLock(
        SessionId(session),
        Lock(kind, 0, N_BYTES - 1, 9, owner, True) if flock else Lock(kind, min(one, other), max(one, other), 9, owner),
    ),
    st.integers(1, 2),
    st.sampled_from((fcntl.F_RDLCK, fcntl.F_WRLCK, fcntl.F_UNLCK)),
    st.integers(0, N_BYTES - 1),
    st.integers(0, N_BYTES - 1),
    st.integers(1, 2),
    st.sampled_from((False, False, False, True)),
)


def holder_of(held: HeldLock) -> Holder:
    return held.session, held.lock.owner, held.lock.flock


def excluded(model: Bytes, wanted: HeldLock) -> bool:
    lock = wanted.lock
    return lock.type != fcntl.F_UNLCK and any(
        fcntl.F_WRLCK in (kind, lock.type)
        for holder, kinds in model.items()
        if holder != holder_of(wanted) and holder[2] == lock.flock
        for byte, kind in kinds.items()
        if lock.start <= byte <= lock.end
    )


def apply(model: Bytes, wanted: HeldLock) -> None:
    kinds = model.setdefault(holder_of(wanted), {})
    for byte in range(wanted.lock.start, wanted.lock.end + 1):
        kinds.pop(byte, None)
        if wanted.lock.type != fcntl.F_UNLCK:
            kinds[byte] = wanted.lock.type
    if not kinds:
        del model[holder_of(wanted)]


def by_bytes(locks: list[HeldLock]) -> Bytes:
    """What the locks say, byte by byte; no byte may be said twice of one holder."""
    found: Bytes = {}
    for held in locks:
        kinds = found.setdefault(holder_of(held), {})
        for byte in range(held.lock.start, held.lock.end + 1):
            assert byte not in kinds
            kinds[byte] = held.lock.type
    return found


def n_runs(model: Bytes) -> int:
    """How few locks can say it: one per run of bytes of one type."""
    return sum(kinds.get(byte - 1) != kind for kinds in model.values() for byte, kind in kinds.items())


@given(st.lists(requests, max_size=30))
def test_locks_are_what_each_byte_was_last_locked_as(wanted: list[HeldLock]) -> None:
    model: Bytes = {}
    locks: list[HeldLock] = []
    for request in wanted:
        in_the_way = first_conflict(locks, request)
        assert (in_the_way is not None) == excluded(model, request)
        if in_the_way is not None:
            continue
        apply(model, request)
        locks = changed(locks, request)
        assert by_bytes(locks) == model
        assert len(locks) == n_runs(model)
        assert locks == decode_locks(1, Row(encode_locks(locks), Position(1)) if locks else None)
