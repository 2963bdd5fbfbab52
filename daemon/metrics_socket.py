"""The socket at which a mount's metrics are asked for.

Its owner is whoever outlives the processes that serve: a worker that was killed may keep what it had open until its successor
serves (`apart`), so that one could not listen at the same port by itself. Who asks between the two waits.
"""

import socket
from typing import Any

from cairnfs.daemon.mount_options import Address
from cairnfs.errors import MountError


def listen_at(address: Address) -> socket.socket:
    """MountError when the address cannot be listened on."""
    try:
        family, found = _resolved(address)
        listening = socket.socket(family, socket.SOCK_STREAM)
        try:
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(found)
            listening.listen()
            listening.setblocking(False)
        except BaseException:
            listening.close()
            raise
    except OSError as error:
        raise MountError(f"cannot serve metrics on {address}: {error.strerror}", error.errno) from error
    return listening


def listens_at(listening: socket.socket, address: Address) -> bool:
    """Whether it is what `listen_at` would make; with port 0, at any port."""
    try:
        family, (host, port, *_) = _resolved(address)
    except OSError:
        return False
    if listening.family != family or not listening.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        return False
    its_host, its_port, *_ = listening.getsockname()
    return bool(its_host == host and port in (0, its_port))


def _resolved(address: Address) -> tuple[socket.AddressFamily, Any]:
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, place = found[0]
    return family, place
