"""A child that opens the volume for a process which must not: whoever has opened a volume must not fork.

It tells which volume it is, or why it cannot be used, and puts a process's name on the session of a mount that is taken over.
"""

import json
import os
import socket
from dataclasses import asdict, replace
from types import TracebackType
from typing import Any, NoReturn, Self

from cairnfs.daemon.mount_options import MountRequest
from cairnfs.errors import CairnError
from cairnfs.meta.process import Process
from cairnfs.types import SessionId
from cairnfs.volume import Volume, open_volume

LONGEST_ANSWER_BYTES = 1 << 16


class Scout:
    """The child. `name` and `uuid` are the volume's. Raises what kept the child from opening it."""

    def __init__(self, request: MountRequest) -> None:
        self._ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._pid = os.fork()
        if self._pid == 0:
            self._ours.close()
            _live(request, theirs)
        theirs.close()
        try:
            volume = self._hear()
        except BaseException:
            self.close()
            raise
        self.name, self.uuid = str(volume["name"]), str(volume["uuid"])

    def adopt(self, session: int, process: Process) -> None:
        """From now on the session lives as long as this process, too. Raises what kept the child from writing that."""
        self._ours.send(json.dumps({"session": session, "process": asdict(process)}).encode())
        self._hear()

    def let_go(self) -> None:
        """The child ends by itself, once all who have this end of its socket have done so. For a mount that somebody serves: the
        child may have files of it open, and waits for an answer when it closes them.
        """
        self._ours.close()

    def is_gone(self) -> bool:
        """After `let_go`: has it ended? To be asked until it has."""
        return os.waitpid(self._pid, os.WNOHANG)[0] == self._pid

    def close(self) -> None:
        """Wait until the child is gone."""
        self._ours.close()
        os.waitpid(self._pid, 0)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _hear(self) -> dict[str, Any]:
        said = self._ours.recv(LONGEST_ANSWER_BYTES)
        answer: dict[str, Any] = json.loads(said) if said else {"message": "a process that looked at the volume died"}
        if "message" in answer:
            error = CairnError(answer["message"])
            error.exit_code = answer.get("exit_code", 1)
            raise error
        return answer


def _live(request: MountRequest, socket_: socket.socket) -> NoReturn:
    """The life of the child: it ends when its parent lets go of it, or dies."""
    answer: dict[str, object] = {}
    try:
        with open_volume(request.url, replace(request.engine, background_jobs=False)) as volume:
            _say(socket_, {"name": volume.format.name, "uuid": volume.format.uuid})
            while asked := socket_.recv(LONGEST_ANSWER_BYTES):
                _adopt(volume, json.loads(asked))
                _say(socket_, {})
    except OSError as error:
        answer = {"message": str(error), "exit_code": error.exit_code if isinstance(error, CairnError) else 1}
    except BaseException as error:
        answer = {"message": f"{type(error).__name__}: {error}", "exit_code": 1}
    finally:
        if answer:
            _say(socket_, answer)
        os._exit(0)


def _adopt(volume: Volume, asked: dict[str, Any]) -> None:
    volume.meta.sessions.expect(SessionId(asked["session"]), Process(**asked["process"]))


def _say(socket_: socket.socket, what: dict[str, object]) -> None:
    try:
        socket_.send(json.dumps(what).encode())
    except OSError:
        pass  # nobody wants to know any more
