"""Objects in a bucket of S3 or a server that speaks it, below the folder of the volume's name.

The client is obstore: compiled, one per process, used by all threads at once without the GIL, with connections that are
used again. It never retries by itself, because `Retrying` does, and each attempt ends after half of the time that calls may
take, so that a second one has a chance.

A name is used once by `If-None-Match: *`, which Amazon and Ceph (from 16 on) know. A server that does not, by its answer or
by storing the second of two such requests (tried once, with the first object of this process), is asked for the name before
instead. Two who store the same name within one round trip then both succeed; pack names are unique without that.
"""

import errno
import os
import re
from collections.abc import Callable, Iterator, Sequence
from datetime import timedelta
from itertools import chain
from typing import Any, Literal, TypeVar

from cairnfs.errors import ObjectError, ObjectMissing, VolumeError
from cairnfs.objects.base import MARKER, NotOurs, ObjectInfo, OneByOne, SyncedAtPut, TimedOut, Untrusted, checked_name
from cairnfs.objects.s3_keys import MISSING, Keys
from cairnfs.objects.s3_url import checked_endpoint, parse_s3_url
from cairnfs.types import Buffer

try:
    from obstore.exceptions import AlreadyExistsError, BaseError
    from obstore.store import S3Store as Client
except ImportError as error:
    raise VolumeError(MISSING) from error

T = TypeVar("T")

LISTED_TOGETHER = 100  # a part of the thousand that S3 tells at once: when an answer fails, the client drops what is not together
CONNECT_S = 5.0
IDLE_S = 20.0  # servers close idle connections after a minute or so; one that is just being closed would cost a retry

_STATUS = re.compile(r"status code: (\d{3})[^:\n]*")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")
_CAUSE = re.compile(r'(?:message|error): "([^"]+)"|(TimedOut|IncompleteMessage|ConnectionReset)')
_NO_KEYS = re.compile(r"External AWS credential provider: \w+: ([^\n]*)")
_CERTIFICATE = re.compile(r"InvalidCertificate\(\s*(?:Other\(\s*OtherError\(\s*)?(\w+)")
_NO_TLS = "InvalidContentType"
_WRONG_REGION = re.compile(r"incorrectly configured region|<Code>AuthorizationHeaderMalformed<.*\bregion\b", re.DOTALL)
_REGION = re.compile(r"[0-9A-Za-z._-]+")
_ODD_KEY = re.compile(r'object with invalid path: .*?Path "([^"]*)"')
_CONFLICT = "409"  # something else is under way, such as an earlier attempt: what has come of that is not known yet
_MARKED = re.compile(rb"[0-9a-z-]{1,64}\s*")  # what a marker may be; a page for people is none
_ENDED = frozenset({"ExpiredToken", "TokenRefreshRequired"})  # new keys may be asked for in a moment
_UNKNOWN_CONDITION = frozenset({"501", "NotImplemented"})


class S3Objects(OneByOne, SyncedAtPut):
    """A bucket, as far as it belongs to one volume. See `cairnfs.objects.base.Bucket`."""

    def __init__(self, url: str, folder: str, region: str | None, io_timeout_s: float) -> None:
        found = parse_s3_url(url)
        keys = Keys(_attempt_s(io_timeout_s))
        self._bucket = found.bucket
        self._folder = folder
        self._keys = keys
        self._region = _checked_region(region or found.region or keys.region())
        given = found.endpoint if found.endpoint or found.is_amazon else _endpoint_of_environment()
        self._endpoint = (given or _amazon(self._region)).rstrip("/")
        by_host = given is None and "." not in found.bucket  # a dot in a name would not fit Amazon's certificate
        self._conditional: bool | None = None
        self._client = Client(
            self._bucket,
            prefix=folder,
            endpoint=self._endpoint.replace("://", f"://{self._bucket}.", 1) if by_host else self._endpoint,
            virtual_hosted_style_request=by_host,
            region=self._region,
            disable_bulk_delete=True,  # it would ask in bulk for a single object, which fewer servers know
            client_options=_client_options(self._endpoint, io_timeout_s),
            retry_config={"max_retries": 0, "retry_timeout": timedelta(seconds=io_timeout_s)},
            **keys.settings(),
        )

    def put(self, name: str, parts: Sequence[Buffer]) -> None:
        path = checked_name(name)
        data = b"".join(parts)
        if self._conditional is None:
            self._first_put(path, data)
        elif self._conditional:
            self._send(path, data, "create")
        else:
            self._refuse_taken(path)
            self._send(path, data, "overwrite")

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        path = checked_name(name)
        if length == 0:
            self.head(path)
            return b""
        try:
            return self._call("read", path, lambda: self._read(path, offset, length))
        except _PastTheEnd:
            return b""

    def head(self, name: str) -> ObjectInfo:
        path = checked_name(name)
        return _info(self._call("look at", path, lambda: self._client.head(path)))

    def delete(self, name: str) -> None:
        path = checked_name(name)
        try:
            self._call("delete", path, lambda: self._client.delete(path))
        except ObjectMissing:
            pass

    def list(self, prefix: str = "", after: str = "") -> Iterator[ObjectInfo]:
        self.check()
        known = after or MARKER
        for info in self._list(prefix, after):
            known = info.name
            yield info
        while known:
            last = ""
            for info in self._rest(prefix, known):
                last = info.name
                yield info
            known = last

    def check(self) -> None:
        try:
            self._read(MARKER, 0, None)
        except ObjectError:
            raise
        except (BaseError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                lost = "the bucket does not exist" if self._no_bucket(error) else f"there is no {MARKER}"
                raise NotOurs(f"{self.where} is not this volume's place now ({lost}): restore the bucket") from error
            raise self._error(error, "read", MARKER) from error

    def close(self) -> None:
        """Idle connections end with the client, which goes now; others with the last call that uses it."""
        del self._client

    @property
    def where(self) -> str:
        return f"{self._endpoint}/{self._bucket}/{self._folder}"

    def prepare(self) -> None:
        if self.present():
            return
        from botocore.exceptions import BotoCoreError, ClientError

        own = "amazonaws.com" not in self._endpoint or self._region == "us-east-1"
        more = {} if own else {"CreateBucketConfiguration": {"LocationConstraint": self._region}}
        try:
            maker = self._keys.session.create_client("s3", endpoint_url=self._endpoint, region_name=self._region)
            maker.create_bucket(Bucket=self._bucket, **more)
        except (BotoCoreError, ClientError) as error:
            raise VolumeError(f"bucket {self._bucket} is not at {self._endpoint} and cannot be made: {error}") from error

    def present(self) -> bool:
        try:
            next(self._list(""), None)
        except ObjectMissing:
            return False
        return True

    def vacant(self) -> bool:
        try:
            return next(self._list(""), None) is None and not self._has(MARKER)
        except ObjectMissing:
            return True

    def tidy(self) -> None:
        """There are no folders; the bucket stays, because others may use it."""

    # Storing

    def _first_put(self, path: str, data: bytes) -> None:
        """Store an object, and find out whether the server refuses names that are taken; it may store this one twice for that.

        Threads that come before this is known do the same, without waiting for each other.
        """
        self._refuse_taken(path)
        try:
            self._send(path, data, "create")
        except _Unknown:
            self._conditional = False
            self._send(path, data, "overwrite")
            return
        try:
            self._send(path, data, "create")
            self._conditional = False
        except ObjectError as error:  # what is stored is stored; after another failure than the expected the next one asks again
            if error.errno == errno.EEXIST:
                self._conditional = True

    def _refuse_taken(self, path: str) -> None:
        try:
            self.head(path)
        except ObjectMissing:
            return
        raise ObjectError(f"object {path} exists already in {self.where}", errno.EEXIST)

    def _send(self, path: str, data: bytes, mode: Literal["create", "overwrite"]) -> None:
        self._call("store", path, lambda: self._client.put(path, data, mode=mode, use_multipart=False))

    # Reading

    def _read(self, path: str, offset: int, length: int | None) -> bytes:
        if length is not None:
            return self._client.get_range(path, start=offset, length=length).to_bytes()
        options: Any = {"range": {"offset": offset}} if offset else None
        data = self._client.get(path, options=options).bytes().to_bytes()
        if path == MARKER and not _MARKED.fullmatch(data):
            raise ObjectError(f"cannot read object {MARKER} in {self.where}: what is answered is no volume's marker")
        return data

    def _has(self, path: str) -> bool:
        try:
            self._call("look at", path, lambda: self._client.head(path))
        except ObjectMissing:
            return False
        return True

    def _list(self, prefix: str, after: str = "") -> Iterator[ObjectInfo]:
        """In the server's order, which is that of names; obstore wants whole folders."""
        folder = prefix.rpartition("/")[0]
        pages = iter(self._client.list(folder or None, offset=after or None, chunk_size=LISTED_TOGETHER))
        for found in chain.from_iterable(iter(lambda: self._call("list", prefix, lambda: next(pages, [])), [])):
            if found["path"].startswith(prefix):
                yield _info(found)

    def _rest(self, prefix: str, known: str) -> Iterator[ObjectInfo]:
        """What comes after the last name of a listing: nothing, if it was whole.

        The client takes any page that is answered for the end of a listing. So this one has to begin with a name that is there.
        """
        is_listed = False
        for info in self._list(prefix if known.startswith(prefix) else "", known[:-1]):
            is_listed = is_listed or info.name == known
            if info.name > known and info.name.startswith(prefix):
                yield info
            elif info.name > max(prefix, known):
                break
        if not is_listed and self._has(known):
            raise ObjectError(f"cannot list {self.where}: {known} is there and was not listed")

    # What went wrong

    def _call(self, doing: str, path: str, call: Callable[[], T]) -> T:
        try:
            return call()
        except (BaseError, OSError) as error:
            if isinstance(error, ObjectError):
                raise
            raise self._error(error, doing, path) from error

    def _error(self, error: Exception, doing: str, path: str) -> ObjectError:
        text = str(error)
        status, code = (found[1] if (found := pattern.search(text)) else "" for pattern in (_STATUS, _CODE))
        if status == "404" or isinstance(error, FileNotFoundError):
            return self._missing(error, doing, path)
        where = f"object {path} in {self.where}" if path else self.where
        if isinstance(error, AlreadyExistsError) and status != _CONFLICT:
            return ObjectError(f"{where} exists already", errno.EEXIST)
        if {status, code} & _UNKNOWN_CONDITION:
            return _Unknown(f"cannot {doing} {where}: the server does not know how")
        if status == "416":
            return _PastTheEnd(f"{where} is shorter")
        if not status and (doubt := _doubt(text)):
            return Untrusted(f"cannot {doing} {where}: {doubt}")
        if keys := _NO_KEYS.search(text):
            return ObjectError(f"cannot {doing} {where}: the keys cannot be had: {keys[1]}")
        if odd := _ODD_KEY.search(text):
            hint = f"another program has stored {odd[1]!r}, which can be no object of a volume: delete it"
            return ObjectError(f"cannot {doing} {where}: {hint}", errno.EINVAL)
        if _WRONG_REGION.search(text):
            hint = f"the bucket is not in region {self._region}: name its own with --region, AWS_REGION or the profile"
            return Untrusted(f"cannot {doing} {where}: {hint}")
        reason = _reason(text, status, code)
        if code in ("QuotaExceeded", "QuotaExceededException"):
            return ObjectError(f"cannot {doing} {where}: {reason}", errno.EDQUOT)
        if code == "RequestTimeTooSkewed":
            return Untrusted(f"cannot {doing} {where} ({reason}): correct the clock of this machine")
        if status in ("401", "403") and code not in _ENDED:
            if not code and path != MARKER and (told := self._wrong_place()) is not None:
                return told  # the answer to a HEAD does not say why
            hint = "check the keys, and what they may do with this bucket"
            return ObjectError(f"not permitted to {doing} {where} ({reason}): {hint}", errno.EACCES)
        kind = TimedOut if not status and "TimedOut" in text else ObjectError
        return kind(f"cannot {doing} {where}: {reason}")

    def _missing(self, error: Exception, doing: str, path: str) -> ObjectError:
        """An object or its bucket is not there; the answer to a HEAD does not say which."""
        if doing == "list":
            if not self._no_bucket(error):
                return ObjectError(f"cannot list {self.where}: {_reason(str(error), '404', '')}")
            return ObjectMissing(f"bucket {self._bucket} does not exist at {self._endpoint}")
        if self._no_bucket(error):
            return NotOurs(f"bucket {self._bucket} does not exist at {self._endpoint}: correct --bucket, or restore it")
        if path != MARKER and (vanished := self._wrong_place()) is not None:
            return vanished
        if doing == "store":  # some balancer has lost its servers for a moment
            return ObjectError(f"cannot store object {path} in {self.where}: {_reason(str(error), '404', '')}")
        return ObjectMissing(f"object {path} does not exist in {self.where}")

    def _wrong_place(self) -> ObjectError | None:
        """Why the marker cannot be read either, if it cannot."""
        try:
            self.check()
        except ObjectError as error:
            return error
        return None

    def _no_bucket(self, error: Exception) -> bool:
        return "NoSuchBucket" in str(error)


class _PastTheEnd(ObjectError):
    """A range begins behind the last byte."""


class _Unknown(ObjectError):
    """The server has no notion of what it was asked for."""


def _endpoint_of_environment() -> str | None:
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        if os.environ.get(name):
            return checked_endpoint(os.environ[name], name)
    return None


def _checked_region(region: str) -> str:
    if not _REGION.fullmatch(region):
        raise VolumeError(f"{region!r} cannot be a region of S3: correct --region, AWS_REGION or the profile")
    return region


def _amazon(region: str) -> str:
    return f"https://s3.{region}.amazonaws.com{'.cn' if region.startswith('cn-') else ''}"


def _attempt_s(io_timeout_s: float) -> float:
    return max(io_timeout_s / 2, 0.1)


def _client_options(endpoint: str, io_timeout_s: float) -> Any:
    attempt_s = _attempt_s(io_timeout_s)
    options: dict[str, Any] = {
        "allow_http": endpoint.startswith("http://"),
        "timeout": timedelta(seconds=attempt_s),
        "connect_timeout": timedelta(seconds=min(CONNECT_S, attempt_s)),
        "pool_idle_timeout": timedelta(seconds=IDLE_S),
    }
    bundle = os.environ.get("AWS_CA_BUNDLE")
    if bundle:
        try:
            with open(bundle, "rb") as file:
                options["root_certificate"] = file.read()
        except OSError as error:
            raise VolumeError(f"AWS_CA_BUNDLE: {bundle}: {error.strerror}") from error
        if b"-----BEGIN CERTIFICATE-----" not in options["root_certificate"]:
            raise VolumeError(f"AWS_CA_BUNDLE: {bundle}: there is no certificate in it (PEM)")
    return options


def _info(found: Any) -> ObjectInfo:
    return ObjectInfo(found["path"], found["size"], found["last_modified"].timestamp())


def _doubt(text: str) -> str:
    """Why a server is not believed to be the one that was meant; empty when that is not what went wrong."""
    if _NO_TLS in text:
        return "what answers there does not speak TLS: write http://, or another port"
    found = _CERTIFICATE.search(text)
    if not found:
        return ""
    if found[1].startswith("NotValidForName"):
        return "the server's certificate is for another name: use the one that it has"
    if found[1].startswith(("Expired", "NotValidYet")):
        return "the server's certificate is not valid now: renew it, or correct the clock"
    if found[1] == "CaUsedAsEndEntity":
        return "the server's certificate is that of an authority (CA:TRUE): give the server one that this has signed"
    return f"the server's certificate is not trusted ({found[1]}): name the file of its authority by AWS_CA_BUNDLE"


def _reason(text: str, status: str, code: str) -> str:
    """One line of what a server or connection has said."""
    if status:
        message = found[1] if (found := _MESSAGE.search(text)) else ""
        return " ".join(": ".join(filter(None, (f"{status} {code}".strip(), message))).split())
    causes = [first or second for first, second in _CAUSE.findall(text)]
    first = text.partition("\n")[0].rpartition(" - ")[2]
    return f"{first}: {causes[-1]}" if causes else first
