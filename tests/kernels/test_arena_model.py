"""The arena against the true history of a store: it may forget, but what it says is never older than what it was told of.

The store is a list of commits. Some are this mount's, and are told of some time after they are made, in any order; others' are
told of in order by a follower, which may stop anywhere. Rows are fetched, and given to the arena at any time later.
"""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, precondition, rule

from cairnfs.meta.records import dentry_key, inode_key
from cairnfs.meta.stores.base import Key, Row
from cairnfs.types import Position
from support.arenas import Watched, inode_row, mark_of, name_row

INODES = [inode_key(ino) for ino in (7, 8)]
NAMES = [dentry_key(1, name) for name in (b"a", b"b", b"a long name of more than eight bytes")]
KEYS = [*INODES, *NAMES]
SOME = st.lists(st.sampled_from(KEYS), min_size=1, max_size=3, unique=True)

Fetch = tuple[int, list[Key], list[Row | None]]
Commit = tuple[int, int, dict[Key, bytes | None], bytes | None]


def value_at(key: Key, position: int) -> bytes:
    """Every commit gives a row another value."""
    if key in INODES:
        return inode_row(int.from_bytes(key[0][1:], "big"), position, position)[1].value
    return name_row(1, key[1], 1000 + position, position)[1].value


class History(RuleBasedStateMachine):
    """`now` is what the store has; `told` the newest commit of each row that the arena has heard of."""

    fetches: Bundle[Fetch] = Bundle("fetches")
    commits: Bundle[Commit] = Bundle("commits")
    looks: Bundle[tuple[int, bytes]] = Bundle("looks")

    def __init__(self) -> None:
        super().__init__()
        self.store = Watched()
        self.arena = self.store.arena
        self.followed = 0
        self.history: dict[Key, dict[int, Row | None]] = {key: {0: None} for key in KEYS}
        self.told = dict.fromkeys(KEYS, 0)

    def make(self, keys: list[Key], deletes: bool, own: bool) -> dict[Key, bytes | None]:
        self.store.add(own, keys)
        rows = {key: None if deletes else value_at(key, self.position) for key in keys}
        for key, value in rows.items():
            self.history[key][self.position] = None if value is None else Row(value, Position(self.position))
        return rows

    @property
    def position(self) -> int:
        return self.store.position

    def tell(self, keys: list[Key], position: int) -> None:
        for key in keys:
            self.told[key] = max(self.told[key], position)

    def now(self, key: Key) -> Row | None:
        return self.history[key][max(self.history[key])]

    @rule(keys=SOME, deletes=st.booleans())
    def others_commit(self, keys: list[Key], deletes: bool) -> None:
        self.make(keys, deletes, own=False)

    @rule(target=commits, keys=SOME, deletes=st.booleans(), sure=st.booleans())
    def commit_begins(self, keys: list[Key], deletes: bool, sure: bool) -> Commit:
        token = self.arena.token()
        self.arena.committing()
        rows = self.make(keys, deletes, own=True)
        return self.position, token, rows, mark_of(self.position) if sure else None

    @rule(commit=consumes(commits))
    def commit_is_told_of(self, commit: Commit) -> None:
        position, token, rows, mark = commit
        self.arena.committed(rows, position, token, mark)
        self.tell(list(rows), position)

    @rule(commit=consumes(commits))
    def commit_fails_although_it_was_made(self, commit: Commit) -> None:
        self.arena.drop_all()
        self.arena.refused()
        self.tell(list(commit[2]), commit[0])

    @rule()
    def commit_is_refused(self) -> None:
        self.arena.committing()
        self.arena.refused()

    @rule(target=fetches, keys=SOME)
    def rows_are_fetched(self, keys: list[Key]) -> Fetch:
        token = self.arena.token()
        return token, keys, [self.now(key) for key in keys]

    @rule(target=fetches, keys=SOME, there=st.booleans())
    def rows_are_fetched_during_a_commit_of_others(self, keys: list[Key], there: bool) -> Fetch:
        token = self.arena.token()
        before = [self.now(key) for key in keys]
        self.make(keys, deletes=False, own=False)
        return token, keys, [self.now(key) for key in keys] if there else before

    @rule(fetch=consumes(fetches))
    def rows_arrive(self, fetch: Fetch) -> None:
        token, keys, rows = fetch
        self.arena.note(keys, rows, token)

    # The same without a pause in between, so that much of it happens in one run

    @rule(keys=SOME)
    def rows_are_read(self, keys: list[Key]) -> None:
        self.rows_arrive(self.rows_are_fetched(keys))

    @rule(keys=SOME, deletes=st.booleans(), sure=st.booleans())
    def own_commit(self, keys: list[Key], deletes: bool, sure: bool) -> None:
        self.commit_is_told_of(self.commit_begins(keys, deletes, sure))

    @rule()
    def follower_catches_up(self) -> None:
        self.follower_has_read_all(self.follower_looks())

    @rule(key=st.sampled_from(INODES))
    def one_is_forgotten(self, key: Key) -> None:
        self.arena.forget(int.from_bytes(key[0][1:], "big"))

    @rule()
    def all_is_dropped(self) -> None:
        self.arena.drop_all()

    @precondition(lambda self: self.followed < self.position)
    @rule()
    def follower_reads_a_record(self) -> None:
        own, keys = self.store.log[self.followed]
        self.followed += 1
        if not own:
            self.arena.changed(keys, self.followed)
            self.tell(keys, self.followed)

    @rule(target=looks)
    def follower_looks(self) -> tuple[int, bytes]:
        return self.position, mark_of(self.position)

    @rule(look=consumes(looks))
    def follower_has_read_all(self, look: tuple[int, bytes]) -> None:
        while self.followed < look[0]:
            self.follower_reads_a_record()
        self.arena.saw(self.followed, look[1])

    @invariant()
    def nothing_is_older_than_what_was_told_of(self) -> None:
        fresh = self.arena.fresh()
        for key in INODES:
            found = self.arena.attr(int.from_bytes(key[0][1:], "big"))
            if found is not None:
                version = found[0]
                assert self.history[key][version] is not None
                assert found[2:4] == (version, version)
                assert version >= (max(self.history[key]) if fresh else self.told[key])
        for key in NAMES:
            ino = self.arena.name(1, key[1])
            if ino is not None:
                positions = [at for at, row in self.history[key].items() if row is None] if ino == 0 else [ino - 1000]
                assert max(positions) >= (max(self.history[key]) if fresh else self.told[key])
                assert ino == 0 or self.history[key][ino - 1000] is not None

    def teardown(self) -> None:
        self.store.close()


History.TestCase.settings = settings(max_examples=300, stateful_step_count=40, deadline=None)
TestHistory = History.TestCase
