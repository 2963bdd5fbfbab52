"""Up to where a lookup or a page on Redis says that others have committed: what the asking session did last is no news to it."""

from contextlib import closing

from cairnfs.meta.stores import open_store
from cairnfs.meta.stores.base import Put
from cairnfs.meta.stores.redis_store import RedisStore
from cairnfs.types import SessionId
from support.redis_server import RedisServer
from support.rows import A


def opened(server: RedisServer) -> RedisStore:
    store = open_store(server.url)
    assert isinstance(store, RedisStore)
    return store


def test_own_commits_are_no_news(redis_server: RedisServer) -> None:
    with closing(opened(redis_server)) as store, closing(opened(redis_server)) as other, redis_server.client() as client:
        store.origin, other.origin = SessionId(7), SessionId(8)

        def commit(by: RedisStore) -> int:
            return by.commit([], [Put(A, b"")]).position

        def news(asking: RedisStore) -> int:
            found = asking.read_via((b"d", b"no such name"), b"i", b"a").position
            assert asking.scan_via(b"d", None, 10, b"i", b"a").position == found
            return found

        mine = [commit(store) for _ in range(3)]
        assert (news(store), news(other)) == (0, mine[-1])
        theirs = commit(other)
        assert (news(store), news(other)) == (theirs, mine[-1])
        commit(store)
        newest = commit(store)
        assert (news(store), news(other)) == (theirs, newest)
        client.incr(b"{cairnfs:0}position")  # a commit of somebody who keeps no account of that
        assert (news(store), news(other)) == (newest + 1, newest + 1)
        commit(store)
        assert news(store) == newest + 1
        store.origin = SessionId(0)
        assert news(store) == newest + 2  # nothing is anybody's who has no session
