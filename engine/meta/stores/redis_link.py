"""Reaching a Redis server: what a URL says, and calls that are tried again while it is away.

URLs are JuiceFS's; engine/README.md has them, with their options and variables of the environment.
"""

import errno
import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, unquote

import redis
from redis.backoff import NoBackoff
from redis.cluster import RedisCluster
from redis.exceptions import RedisClusterException
from redis.retry import Retry
from redis.sentinel import MasterNotFoundError, Sentinel

from cairnfs.errors import CairnError, StoreError, UsageError
from cairnfs.meta.stores.redis_wire import Argument, Wire, Words

log = logging.getLogger(__name__)
T = TypeVar("T")

DEFAULT_PORT, SENTINEL_PORT = 6379, 26379
CONNECT_TIMEOUT_S = 5.0
ATTEMPTS = 3  # how often a server that takes requests and does not answer is asked within the time limit
SILENT_S = 5  # without any sign of the other machine for so long, a connection is given up
KEEPALIVE = {
    socket.TCP_KEEPIDLE: 2,  # while an answer is waited for
    socket.TCP_KEEPINTVL: 1,
    socket.TCP_KEEPCNT: SILENT_S - 2,
    socket.TCP_USER_TIMEOUT: SILENT_S * 1000,  # while a request is on its way; TCP itself would go on for many minutes
}
MIN_PAUSE_S, MAX_PAUSE_S = 0.01, 1.0
TELL_EVERY_S = 30.0  # the same of the server in the log
TLS_OPTIONS = {"tls-ca-cert-file": "ssl_ca_certs", "tls-cert-file": "ssl_certfile", "tls-key-file": "ssl_keyfile"}
OPTIONS = frozenset({"db", "password-file", "insecure-skip-verify", "wait-replicas", *TLS_OPTIONS})

FAILURES = (redis.RedisError, RedisClusterException)  # of redis-py: one is not among the others

# While one of these lasts the server is away, starts, or is being replaced.
AWAY = (
    redis.exceptions.ConnectionError,
    redis.exceptions.TimeoutError,
    redis.exceptions.ReadOnlyError,
    redis.exceptions.MovedError,
    redis.exceptions.AskError,
    redis.exceptions.ClusterError,  # it is down, or redis-py has been sent to and fro
    redis.exceptions.TryAgainError,
    MasterNotFoundError,
    RedisClusterException,
)
ELSEWHERE = (redis.exceptions.MovedError, redis.exceptions.AskError)  # the keys are, or some of them
# Errors without a class of their own that pass, too. The last ones: while a Cluster moves the keys to another node; by WAIT, of a
# master that steps down while replicas are waited for, or between a commit and the WAIT behind it.
PASSING = (
    *("BUSY ", "MISCONF", "NOREPLICAS", "Script attempted to access a non local key"),
    *("UNBLOCKED", "WAIT cannot be used with replica"),
)
# What they mean where they last, and what ends them.
MENDED: dict[str | type[Exception], str] = {
    "BUSY ": "it runs a script for long, which SCRIPT KILL ends if it has written nothing",
    "MISCONF": "it cannot write to its disk and takes no commits until it can: make room there, or mend the disk",
    "NOREPLICAS": "it takes no commits while fewer replicas follow it than its min-replicas-to-write",
    redis.exceptions.ReadOnlyError: "it is a replica: promote it, or name its master, or its Sentinels, in the metadata URL",
    redis.exceptions.MasterDownError: "it is a replica whose master is away: start that, or promote the replica",
}
SCRIPT = " script: "  # and where in it, at the end of what a script met
FORBIDDEN = (
    "NOPERM",
    "The user executing the script can't",
    "ACL failure in script",
)  # the last two: of Redis 7.0, of later ones
NO_LOG = "appendonly is disabled"  # by WAITAOF


@dataclass(frozen=True)
class Address:
    """Where the server is. `hosts` are Sentinels if there is a `master`, else one server; `path` is a socket's."""

    db: int
    hosts: list[tuple[str, int]] = field(default_factory=list)
    master: str = ""
    path: str = ""
    login: dict[str, str] = field(default_factory=dict, repr=False)
    password_file: str = ""  # where the password was read, and is read again
    tls: dict[str, Any] = field(default_factory=dict)
    wait_replicas: int = 0  # so many have a commit before it is answered

    @property
    def tag(self) -> bytes:
        """What every key of the volume begins with, so that one node of a Cluster has them all."""
        return b"{cairnfs:%d}" % self.db

    @property
    def shown(self) -> str:
        """For messages: without passwords."""
        where = self.path or ",".join(f"{host}:{port}" for host, port in self.hosts)
        return f"{self.master} of {where}" if self.master else where


def parse_url(scheme: str, rest: str) -> Address:
    """The parts of a URL. UsageError says what is wrong with it."""
    where, _, query = rest.partition("?")
    options = dict(parse_qsl(query, keep_blank_values=True))
    unknown = sorted(options.keys() - OPTIONS)
    if unknown:
        raise UsageError(f"unknown option '{unknown[0]}' in the metadata URL; known are {', '.join(sorted(OPTIONS))}")
    address = _address(scheme, where, options)
    password_file = os.path.abspath(path) if (path := options.get("password-file")) else ""
    return replace(address, password_file=password_file, wait_replicas=_replicas(options.get("wait-replicas", "0")))


def _address(scheme: str, where: str, options: dict[str, str]) -> Address:
    credentials, at, where = where.rpartition("@")
    login = _login(credentials, options) if at else _login("", options)
    if scheme == "unix":
        if not where.startswith("/"):
            raise UsageError("a unix socket is written as unix:///PATH")
        return Address(_db(options.get("db", "0")), path=unquote(where), login=login)
    hosts, _, db = where.partition("/")
    master, comma, sentinels = hosts.partition(",")
    tls = _tls(options) if scheme == "rediss" else {}
    if comma:
        found = [_host(host, SENTINEL_PORT) for host in sentinels.split(",")]
        return Address(_db(db or options.get("db", "0")), found, master, login=login, tls=tls)
    return Address(_db(db or options.get("db", "0")), [_host(hosts, DEFAULT_PORT)], login=login, tls=tls)


def _host(text: str, default_port: int) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if text.endswith("]") or not colon:  # an IPv6 address, or no port
        host, port = text, str(default_port)
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif set(host) & set("[]:"):
        host = ""
    if not host or not _is_number(port) or not 0 < int(port) < 65536:
        raise UsageError(f"'{text}' is not HOST or HOST:PORT")
    return host, int(port)


def _is_number(text: str) -> bool:
    """One that int() takes: there are digits that it does not."""
    return text.isascii() and text.isdigit() and len(text) < 10


def _db(text: str) -> int:
    if not _is_number(text):
        raise UsageError(f"'{text}' is not the number of a Redis database")
    return int(text)


def _replicas(text: str) -> int:
    if not (_is_number(text) and len(text) < 4):
        raise UsageError(f"'{text}' is not a number of replicas to wait for")
    return int(text)


def _login(credentials: str, options: dict[str, str]) -> dict[str, str]:
    user, password = map(unquote, credentials.partition(":")[::2])
    if path := options.get("password-file"):
        try:
            password = _password_in(path)
        except OSError as error:
            raise UsageError(f"the password file {path} cannot be read: {error.strerror}") from error
    password = password or os.environ.get("META_PASSWORD", "")
    found = {"username": user} if user else {}
    return found | ({"password": password} if password else {})


def _password_in(path: str) -> str:
    return Path(path).read_text().strip()


class _Login(redis.CredentialProvider):
    """A login whose password is in a file: each connection has what is there by then."""

    @classmethod
    def options(cls, address: Address) -> dict[str, Any]:
        """What redis-py takes for a login, whatever it is."""
        is_in_file = address.password_file and "password" in address.login
        return {"credential_provider": cls(address)} if is_in_file else dict(address.login)

    def __init__(self, address: Address) -> None:
        self._user = address.login.get("username")
        self._password = address.login["password"]
        self._path = address.password_file

    def get_credentials(self) -> tuple[str] | tuple[str, str]:
        with suppress(OSError):
            self._password = _password_in(self._path) or self._password  # none: it is just being written
        return (self._user, self._password) if self._user else (self._password,)


def _tls(options: dict[str, str]) -> dict[str, Any]:
    found: dict[str, Any] = {name: options[option] for option, name in TLS_OPTIONS.items() if option in options}
    for path in found.values():
        try:
            open(path, "rb").close()  # else each connection would fail as if the server were away
        except OSError as error:
            raise UsageError(f"the file {path} in the metadata URL cannot be read: {error.strerror}") from error
    if options.get("insecure-skip-verify") == "true":
        found |= {"ssl_cert_reqs": "none", "ssl_check_hostname": False}
    return {"ssl": True, **found}


class Link:
    """Connections to one server (or whoever is master at the time). Thread-safe."""

    def __init__(self, address: Address, io_timeout_s: float) -> None:
        """Connects. StoreError when nobody answers within `io_timeout_s`, or answers as a Redis server should not."""
        self.address = address
        self.is_cluster = False
        self._io_timeout_s = io_timeout_s
        self._is_synced = False  # as far as anybody has waited for it
        self._told: dict[str, float] = {}  # what keeps calls waiting -> until when that is not said again
        self._lock = threading.Lock()
        self._common: dict[str, Any] = {
            "socket_timeout": io_timeout_s / ATTEMPTS,
            "socket_connect_timeout": min(CONNECT_TIMEOUT_S, io_timeout_s),
            "socket_keepalive": True,
            "socket_keepalive_options": KEEPALIVE,
            "retry": Retry(NoBackoff(), 0),  # what may be tried again, and how, is decided here
            **_Login.options(address),
            **address.tls,
        }
        self._sentinels: list[Any] = []  # clients of their own
        self.client: Any = self._connect(0)  # a Cluster has no other database, and refuses to be asked for one
        try:
            self.server: dict[str, Any] = self.call(lambda client: client.info())
            if self.server.get("cluster_enabled"):
                self._turn_to_cluster()
            elif address.db:
                self._disconnect()
                self.client = self._connect(address.db)
            self._wire = Wire(self._owner())
        except BaseException:
            self._disconnect()
            raise

    def _connect(self, db: int) -> Any:
        address = self.address
        if address.path:
            options = self._without("socket_keepalive", "socket_keepalive_options")
            return redis.Redis(unix_socket_path=address.path, db=db, **options)
        if address.master:
            password = os.environ.get("SENTINEL_PASSWORD")
            sentinel_kwargs = {"password": password, **address.tls} if password else dict(address.tls)
            sentinel_kwargs["socket_timeout"] = self._common["socket_connect_timeout"]
            make: Any = Sentinel  # which has no types
            sentinel = make(address.hosts, sentinel_kwargs=sentinel_kwargs, **self._common)
            self._sentinels = sentinel.sentinels
            return sentinel.master_for(address.master, db=db)
        host, port = address.hosts[0]
        return redis.Redis(host=host, port=port, db=db, **self._common)

    def _turn_to_cluster(self) -> None:
        self._disconnect()
        self.is_cluster = True
        host, port = self.address.hosts[0]
        try:
            self.client = RedisCluster(host=host, port=port, **self._common | {"retry": Retry(NoBackoff(), 1)})
        except FAILURES as error:
            raise StoreError(f"the Redis cluster at {self.address.shown} cannot be used: {error}") from error

    def _without(self, *names: str) -> dict[str, Any]:
        return {key: value for key, value in self._common.items() if key not in names}

    def _owner(self) -> Any:
        """A client of the server that has the keys."""
        if not self.is_cluster:
            return self.client
        return self.client.get_redis_connection(self.client.get_node_from_key(self.address.tag))

    def ask(self, *words: str | Argument, is_commit: bool = False) -> Any:
        """The reply to a command, as `call`; to a commit, when as many replicas have it as the URL says. A commit without enough
        replicas is asked for again, and must write something each time: the server goes by what was written on the connection.
        """
        if is_commit and self.address.wait_replicas:
            return self.call(lambda _: self._ask_replicas(words))
        give_up_s = time.monotonic() + self._io_timeout_s
        try:
            try:
                return self._wire.ask(words)  # nearly always there is no more to it
            except ELSEWHERE:
                return self._ask(self.client, words)
        except FAILURES as error:
            return self._call_again(lambda client: self._ask(client, words), error, give_up_s)

    def _ask_replicas(self, words: Words) -> Any:
        n_wanted, timeout_ms = self.address.wait_replicas, int(self._common["socket_timeout"] / 2 * 1000)
        reply, n = self._ask_owner(words, ("WAIT", n_wanted, timeout_ms))
        if n < n_wanted:
            raise redis.TimeoutError(f"{n} of {n_wanted} replicas (wait-replicas) had a commit within {timeout_ms} ms")
        return reply

    def _ask(self, client: Any, words: Words) -> Any:
        try:
            return self._ask_owner(words)[0]
        except redis.exceptions.AskError:  # some of the keys are on their way to another node
            return client.execute_command(*words)

    def _ask_owner(self, *commands: Words) -> list[Any]:
        try:
            return self._wire.ask_all(commands)
        except redis.exceptions.MovedError:
            self._find_owner()
            return self._wire.ask_all(commands)

    def _follow(self) -> None:
        """Use the node that has the keys, of all that redis-py knows."""
        owner = self._owner()
        with self._lock:
            before = self._wire
            if before.is_to(owner):
                return
            self._wire = before.to(owner)
        before.end()

    def _find_owner(self) -> None:
        with suppress(*FAILURES):
            self.client.exists(self.address.tag)  # redis-py looks for the node when it does not reach it
            self._follow()

    def new_socket(self) -> int | None:
        """The descriptor of another connection, which is the caller's. None where there is more to it than that: with TLS, or
        when nobody answers just now.
        """
        if self.address.tls:
            return None
        try:
            return self._wire.new_socket()
        except FAILURES as error:
            log.debug("Redis at %s: %s", self.address.shown, error)
            return None

    def greet(self, script: bytes, keys: tuple[bytes, ...]) -> None:
        """Run a Lua script first on each connection from now on."""
        self._wire.end()
        self._wire = Wire(self._owner(), ("EVAL", script, len(keys), *keys))

    def wait_for_disk(self) -> None:
        """Return when all that was committed so far is in the server's append-only file and this is synced; at once where there
        is no such file, or it is never synced. The server goes by what was written on the same connection. StoreError as `call`.
        """
        timeout_ms = int(self._common["socket_timeout"] / 2 * 1000)
        key = self.address.tag + b"synced" + os.urandom(8)  # a new one: none is taken by a node whose keys are on their way

        def wait(_: Any) -> None:
            if not self._is_synced and self._never_syncs():
                return
            try:
                _, (n_local, _) = self._wire.ask_all([("SET", key, b"", "PX", 1), ("WAITAOF", 1, 0, timeout_ms)])
            except redis.ResponseError as error:
                if NO_LOG not in str(error):
                    raise
            else:
                self._is_synced = bool(n_local)
                if not n_local and not self._never_syncs():
                    raise redis.TimeoutError(f"its append-only file was not synced for {timeout_ms} ms")

        self.call(wait)

    def _never_syncs(self) -> bool:
        return self.settings("appendfsync").get("appendfsync") == "no"

    def settings(self, *names: str) -> dict[str, str]:
        """Of the server that has the keys: those that it shows to this user."""
        try:
            found = self._wire.ask(("CONFIG", "GET", *names))
        except redis.ResponseError:
            return {}
        pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
        return {name.decode(): value.decode(errors="replace") for name, value in pairs}

    def has_replicas(self) -> bool:
        """Whether the server that has the keys has any just now."""
        return b"connected_slaves:0" not in self._wire.ask(("INFO", "replication"))

    def call(self, ask: Callable[[Any], T]) -> T:
        """What `ask` returns, given the client; it is called again while the server is away, so it must bear that.

        StoreError when the server refuses, or has been away for `io_timeout_s`.
        """
        give_up_s = time.monotonic() + self._io_timeout_s
        try:
            return ask(self.client)
        except FAILURES as error:
            return self._call_again(ask, error, give_up_s)

    def _call_again(self, ask: Callable[[Any], T], error: Exception, give_up_s: float) -> T:
        """`call`, which has failed a first time."""
        told, pause_s = "", MIN_PAUSE_S
        while True:
            if not _passes(error):
                raise refusal(self.address, error) from error
            if (reason := _reason(error)) != told:  # it is away, and then it reads its data
                self._tell(told := reason)
            if time.monotonic() >= give_up_s:
                has = "refused" if isinstance(error, redis.ResponseError) else "not answered"
                raise StoreError(f"Redis at {self.address.shown} has {has} for {self._io_timeout_s:g} s: {reason}") from error
            time.sleep(random.uniform(MIN_PAUSE_S, pause_s))
            pause_s = min(2 * pause_s, MAX_PAUSE_S)
            if self.is_cluster:
                self._find_owner()
            try:
                return ask(self.client)
            except FAILURES as another:
                error = another

    def _tell(self, text: str) -> None:
        """Log what keeps calls waiting, not once for each."""
        now_s = time.monotonic()
        with self._lock:
            self._told = {each: until_s for each, until_s in self._told.items() if until_s > now_s}
            is_told = text in self._told
            self._told.setdefault(text, now_s + TELL_EVERY_S)
        if not is_told:
            log.info("Redis at %s: %s", self.address.shown, text)

    def close(self) -> None:
        """Close all connections that no call uses."""
        self._wire.close()
        self._disconnect()

    def _disconnect(self) -> None:
        for client in (self.client, *self._sentinels):
            with suppress(*FAILURES):
                client.close()
        self._sentinels = []


def _passes(error: Exception) -> bool:
    if isinstance(error, redis.exceptions.AuthenticationError):  # a ConnectionError by inheritance
        return False
    return isinstance(error, AWAY) or str(error).startswith(PASSING)


def _reason(error: Exception) -> str:
    """What keeps calls waiting: the same whoever meets it."""
    text, _, _ = str(error).partition(SCRIPT)
    for what, mended in MENDED.items():
        if text.startswith(what) if isinstance(what, str) else isinstance(error, what):
            return f"{mended} ({text})"
    return text


def refusal(address: Address, error: Exception) -> CairnError:
    """An error of the server as ours: one line, and how to mend it."""
    text = str(error)
    where = f"Redis at {address.shown}"
    if isinstance(error, redis.exceptions.AuthenticationError) or text.startswith(("NOAUTH", "WRONGPASS")):
        return StoreError(f"{where} refuses the login ({text}): check user and password of the metadata URL")
    if text.startswith(FORBIDDEN) or isinstance(error, redis.exceptions.NoPermissionError):
        return StoreError(f"{where} does not permit it ({text}): give the user +@all on ~{{cairnfs:* and &{{cairnfs:*")
    if text.startswith("OOM") or isinstance(error, redis.exceptions.OutOfMemoryError):
        return StoreError(f"{where} is out of memory: raise its maxmemory ({text})", errno.ENOSPC)
    return StoreError(f"{where}: {text}")
