"""Round trips as a Redis server sees them: every command that comes to it, but for those that its scripts call, by kind."""

import hashlib
import uuid
from collections import Counter
from collections.abc import Callable

from cairnfs.meta.stores.redis_store import Script
from support.redis_server import RedisServer

# By what their last part is called: the lookup of a name is `via`, a page of a listing `scan_via`.
TEXTS = {
    names[-1]: Script(*names).text
    for names in (("giver", "commit"), ("log",), ("scan",), ("read",), ("newest", "page", "via"), ("newest", "page", "scan_via"))
}
BY_HASH = {hashlib.sha1(text, usedforsecurity=False).hexdigest(): name for name, text in TEXTS.items()}
BY_TEXT = {text.decode().replace("\\", "\\\\").replace("\n", "\\n"): name for name, text in TEXTS.items()}  # as MONITOR shows it
GREETINGS = {"HELLO", "AUTH", "SELECT", "CLIENT"}


def kind_of(command: str) -> str:
    """`commit`, `via`, ...: a script. `fence`: asking where the log ends, by compiled code (GETEX) or with what came of it (in
    Python). `poll`: the follower's look at the log, which asks to be rung for. `greeting`: of a new connection. Else the command.
    """
    name, _, rest = command.partition(" ")
    name = name.upper()
    if name == "GETEX":
        assert rest.endswith("position"), command
        return "fence"
    if name == "EVAL":
        script = next((script for text, script in BY_TEXT.items() if rest.startswith(text)), "greeting")
    else:
        script = BY_HASH[rest.partition(" ")[0]] if name == "EVALSHA" else "greeting" if name in GREETINGS else name
    return {"0": "fence", "1": "poll"}[command[-1]] if script == "log" else script


def round_trips(server: RedisServer, call: Callable[[], object]) -> Counter[str]:
    """Those that come while `call` runs, by kind."""
    end = uuid.uuid4().hex
    found: Counter[str] = Counter()
    with server.client() as client, client.monitor() as monitor:
        call()
        client.echo(end)
        for command in monitor.listen():
            if end in command["command"]:
                return found
            if command["client_type"] != "lua":
                found[kind_of(command["command"])] += 1
    raise AssertionError("the server has stopped telling")
