"""A RADOS Gateway of the tests' own, which is a real S3, and a proxy that stands before it and fails on purpose."""

import json
import socket
import subprocess
import threading
from collections import Counter
from contextlib import suppress
from typing import Any, BinaryIO, NamedTuple
from urllib.parse import quote

import botocore.session
from botocore.auth import S3SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from obstore.exceptions import BaseError
from obstore.store import HTTPStore

from support.ceph_server import CephCluster
from support.relay import Relay

ACCESS, SECRET = "access", "secretkey"
KEYS = {"AWS_ACCESS_KEY_ID": ACCESS, "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_EC2_METADATA_DISABLED": "true"}
STS = ("--rgw-s3-auth-use-sts", "true", "--rgw-sts-key", "sixteen-of-these", "--rgw-s3-auth-order", "local, sts")
MAY_HAVE_SESSIONS = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Action": "sts:GetSessionToken", "Resource": "*"}],
}
HALF_BYTES = 100  # of an answer's body, before its connection ends


class SessionKeys(NamedTuple):
    access: str
    secret: str
    token: str


class Gateway:
    """That of a cluster. `url` is the server's; buckets are made by whoever formats a volume in one."""

    def __init__(self, cluster: CephCluster) -> None:
        self.cluster = cluster
        self.url = cluster.start_gateway(*STS, access=ACCESS, secret=SECRET)

    def begin(self) -> None:
        """Have the client begin its threads and descriptors, which stay to the end of the process; it opens no connection."""
        with suppress(BaseError):
            HTTPStore("https://127.0.0.1:1", retry_config={"max_retries": 0}).head("none")

    def admin(self, *words: str) -> None:
        """`radosgw-admin WORDS`."""
        subprocess.run(["radosgw-admin", "-c", self.cluster.conf, *words], check=True, capture_output=True, timeout=60)

    def session(self) -> SessionKeys:
        """Temporary keys, which the gateway's own STS gives to the user."""
        self.admin("caps", "add", "--uid=tester", "--caps=user-policy=*")
        policy = json.dumps(MAY_HAVE_SESSIONS)
        self.client("iam").put_user_policy(UserName="tester", PolicyName="sessions", PolicyDocument=policy)
        given = self.client("sts").get_session_token()["Credentials"]
        return SessionKeys(given["AccessKeyId"], given["SecretAccessKey"], given["SessionToken"])

    def client(self, service: str) -> Any:
        """Another program's, with the user's keys."""
        return botocore.session.Session().create_client(
            service, "us-east-1", endpoint_url=self.url, aws_access_key_id=ACCESS, aws_secret_access_key=SECRET
        )


class S3Proxy(Relay):
    """Passes HTTP requests on, one thread for each connection, and does what `mode` says to those that `method` names.

    slow: an answer comes after `delay_s`; hang: never; half: its connection ends within the body (or, without one, before it);
    reset: the connection ends before the request is passed on; late: after it was; busy: 503; unconditional: the condition of
    a PUT is taken away; unknown: such a PUT is answered 501; instead: it is answered with `answer`, and not passed on.
    """

    def __init__(self, url: str) -> None:
        self.mode = ""
        self.method = b""
        self.n_left = 0  # requests that it is done to; below zero: all
        self.part = b""  # of the address of requests that it is done to
        self.delay_s = 0.2
        self.answer = b""
        self.counts: Counter[str] = Counter()
        self._closing = threading.Event()
        self._lock = threading.Lock()
        super().__init__(int(url.rpartition(":")[2]))
        self.url = f"http://127.0.0.1:{self.port}"

    def fail(self, mode: str, method: str = "", n: int = -1, part: str = "") -> None:
        with self._lock:
            self.mode, self.method, self.n_left, self.part = mode, method.encode(), n, part.encode()

    def instead(self, answer: bytes, method: str = "", n: int = -1, part: str = "") -> None:
        self.answer = answer
        self.fail("instead", method, n, part)

    def close(self) -> None:
        self._closing.set()
        super().close()

    def serve(self, client: socket.socket, server: socket.socket) -> None:
        with client.makefile("rb") as incoming, server.makefile("rb") as answers:
            while self._pass_on(client, server, incoming, answers):
                pass

    def _mode_for(self, method: bytes, address: bytes) -> str:
        with self._lock:
            self.counts[method.decode()] += 1
            if not self.mode or not self.n_left or not method.startswith(self.method) or self.part not in address:
                return ""
            self.n_left -= 1
            return self.mode

    def _pass_on(self, client: socket.socket, server: socket.socket, incoming: BinaryIO, answers: BinaryIO) -> bool:
        """One request and its answer; False when the connection is to end."""
        head, body = _message(incoming)
        method, address = head.split(b" ", 2)[:2]
        mode = self._mode_for(method, address)
        if mode == "reset":
            return False
        if mode == "instead":
            client.sendall(self.answer.partition(b"\r\n\r\n")[0] + b"\r\n\r\n" if method == b"HEAD" else self.answer)
            return True
        if mode == "busy":
            client.sendall(b"HTTP/1.1 503 Slow Down\r\nContent-Length: 0\r\n\r\n")
            return True
        if b"if-none-match" in head.lower() and mode in ("unconditional", "unknown"):
            if mode == "unknown":
                client.sendall(b"HTTP/1.1 501 Not Implemented\r\nContent-Length: 0\r\n\r\n")
                return True
            head = _without_condition(head, body)
        server.sendall(head + body)
        reply_head, reply = _message(answers, is_answer_to=method)
        if mode == "late":
            return False
        if mode in ("slow", "hang"):
            self._closing.wait(self.delay_s if mode == "slow" else 60)
        if mode == "half":
            client.sendall((reply_head + reply[: min(HALF_BYTES, len(reply) // 2)]) if reply else b"")
            return False
        client.sendall(reply_head + reply)
        return True


def answered(status: str, code: str = "", body: bytes = b"") -> bytes:
    """An answer: with an error of S3's, or with `body`."""
    body = body or f"<?xml version='1.0'?>\n<Error><Code>{code}</Code><Message>So\nit is.</Message></Error>".encode()
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


def _message(file: BinaryIO, is_answer_to: bytes = b"") -> tuple[bytes, bytes]:
    """Head and body of the next request or answer."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        line = file.readline()
        if not line:
            raise EOFError
        head += line
    length, chunked = 0, False
    for line in head.lower().split(b"\r\n"):
        name, _, value = line.partition(b":")
        length = int(value) if name == b"content-length" else length
        chunked = chunked or (name == b"transfer-encoding" and b"chunked" in value)
    if is_answer_to == b"HEAD" or b" 204 " in head[:16] or b" 304 " in head[:16]:
        return head, b""
    if not chunked:
        return head, file.read(length)
    body = b""
    while True:
        size = file.readline()
        body += size + file.read(int(size.split(b";")[0], 16) + 2)
        if int(size.split(b";")[0], 16) == 0:
            return head, body


def _without_condition(head: bytes, body: bytes) -> bytes:
    """A PUT without its condition, signed anew, as if the server had never heard of it."""
    first, *lines = head.decode().strip().split("\r\n")
    method, path, _ = first.split(" ")
    headers = dict(line.split(": ", 1) for line in lines)
    kept = {name: value for name, value in headers.items() if name.lower() in ("host", "content-length", "content-type")}
    request = AWSRequest(method, f"http://{kept.get('host') or kept['Host']}{quote(path)}", headers=kept, data=body)
    S3SigV4Auth(Credentials(ACCESS, SECRET), "s3", "us-east-1").add_auth(request)
    signed = "".join(f"{name}: {value}\r\n" for name, value in request.headers.items())
    return f"{method} {path} HTTP/1.1\r\n{signed}\r\n".encode()
