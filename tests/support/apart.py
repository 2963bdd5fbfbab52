"""A network of its own for a mount: nothing is there but loopback, and what listens on it for this process, which is outside.

So what the mount believes to be a server can be a proxy at the very address that this server tells its clients. Needs root.
"""

import ctypes
import os
import socket
import subprocess
import threading
from typing import Self

from support.syscalls import LIBC, check

CLONE_NEWNET = 0x40000000


class Apart:
    """There is one while this is open. `prefix` is what makes a command run there; files and mounts are those of everybody."""

    def __init__(self, *ports: int) -> None:
        """`ports`: on loopback, where `listening` has sockets then."""
        self.listening: dict[int, socket.socket] = {}
        self._fd = -1
        making = threading.Thread(target=self._make, args=(ports,))  # it alone moves there, and ends
        making.start()
        making.join()
        assert set(self.listening) == set(ports), "no network can be made"

    def _make(self, ports: tuple[int, ...]) -> None:
        check(LIBC.unshare(ctypes.c_int(CLONE_NEWNET)))
        self._fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        for port in ports:
            self.listening[port] = socket.create_server(("127.0.0.1", port))

    @property
    def prefix(self) -> list[str]:
        return ["nsenter", f"--net=/proc/{os.getpid()}/fd/{self._fd}", "--"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._fd)
