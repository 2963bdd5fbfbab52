"""Where the keys for S3 come from: the environment, else everything that AWS's own tools know (profiles, SSO, roles, metadata).

Nothing of it is kept anywhere. botocore is loaded only when the environment alone does not do.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cairnfs.errors import VolumeError

if TYPE_CHECKING:
    import botocore.credentials
    import botocore.session
    from obstore.store import S3Credential

log = logging.getLogger(__name__)

DEFAULT_REGION = "us-east-1"  # what servers that know no regions expect in a signature
ASK_EARLY = timedelta(minutes=5)  # so long before the end that obstore is told of, it asks again
ASK_AGAIN = timedelta(minutes=5)  # botocore renews keys itself, earlier than this before they end
ASK_SOON = timedelta(seconds=5)  # ... unless whoever makes them gives only such as end sooner (roles of instances do), or may
LIMIT_S = 30.0
ENDS_SOON = ASK_AGAIN + timedelta(minutes=1)
MISSING = "storage s3 needs more packages: pip install 'cairnfs[s3]'"


class Keys:
    """The keys and the region of this process. Nobody waits for them longer than `limit_s`."""

    def __init__(self, limit_s: float = LIMIT_S) -> None:
        self._limit_s = limit_s

    @cached_property
    def session(self) -> "botocore.session.Session":
        try:
            import botocore.session
        except ImportError as error:
            raise VolumeError(MISSING) from error
        return botocore.session.Session()

    def region(self) -> str:
        """The region of the environment or profile."""
        for name in ("AWS_REGION", "AWS_DEFAULT_REGION"):
            if os.environ.get(name):
                return os.environ[name]
        return str(self._asked("region", lambda: self.session.get_config_variable("region")) or DEFAULT_REGION)

    def settings(self) -> dict[str, Any]:
        """What the client has to be given. VolumeError when there are no keys."""
        access, secret = os.environ.get("AWS_ACCESS_KEY_ID"), os.environ.get("AWS_SECRET_ACCESS_KEY")
        if access and secret:
            token = os.environ.get("AWS_SESSION_TOKEN")
            for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN"):
                _check(name, os.environ.get(name, ""))
            return {"access_key_id": access, "secret_access_key": secret} | ({"session_token": token} if token else {})
        found = self._asked("keys", lambda: self.session.get_credentials())
        if found is None:
            raise VolumeError(
                "there are no keys for S3: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                "or write a profile into ~/.aws/credentials and set AWS_PROFILE"
            )
        return {"credential_provider": _Renewed(found, self._limit_s)}

    def _asked(self, what: str, ask: Callable[[], Any]) -> Any:
        try:
            return _Asking(ask, self._limit_s).answer()
        except VolumeError:
            raise
        except Exception as error:  # whatever a program of the user's makes botocore raise
            raise VolumeError(f"the {what} for S3 cannot be found: {_line_of(error)}") from error


class _Asking:
    """Asks for something in a thread of its own, because it may hang: a program or a server is behind it. Who comes meanwhile
    waits for the same answer.
    """

    def __init__(self, ask: Callable[[], Any], limit_s: float) -> None:
        self._ask = ask
        self._limit_s = limit_s
        self._lock = threading.Lock()
        self._coming: Future[Any] | None = None
        self._until_s = 0.0

    def answer(self) -> Any:
        """Raises TimeoutError when it has not come after `limit_s`, and what asking has raised."""
        with self._lock:
            coming = self._coming
            if coming is None or coming.done():
                coming = self._coming = Future()
                self._until_s = time.monotonic() + self._limit_s
                threading.Thread(target=self._run, args=(coming,), name="cairnfs-s3-keys", daemon=True).start()
            left_s = self._until_s - time.monotonic()
        try:
            return coming.result(max(0.0, left_s))
        except TimeoutError:
            raise TimeoutError(f"nothing has come in {self._limit_s:g} s") from None

    def _run(self, coming: "Future[Any]") -> None:
        try:
            coming.set_result(self._ask())
        except BaseException as error:
            coming.set_exception(error)


class _Renewed:
    """What the client asks for keys. Those that botocore does not renew itself are read again; those of before go on being used
    while there are no new ones, until they end.
    """

    def __init__(self, found: "botocore.credentials.Credentials", limit_s: float) -> None:
        self._found = found
        self._asking = _Asking(self._ask, limit_s)
        self._given: S3Credential | None = None
        self._failing = False

    def __call__(self) -> "S3Credential":
        try:
            given: S3Credential = self._asking.answer()
        except Exception as error:
            if self._given is None or _end_within(self._found, timedelta()):
                raise
            if not self._failing:
                log.warning("keys for S3 cannot be renewed, going on with those of before: %s", _line_of(error))
            self._failing = True
            return self._given | {"expires_at": datetime.now(UTC) + ASK_EARLY + ASK_SOON}
        self._given, self._failing = given, False
        return given

    def _ask(self) -> "S3Credential":
        import botocore.session

        if not hasattr(self._found, "refresh_needed"):  # of a file, which somebody else may write anew
            self._found = botocore.session.Session().get_credentials() or self._found
        frozen = self._found.get_frozen_credentials()
        for name, key in (
            ("the access key", frozen.access_key),
            ("the secret key", frozen.secret_key),
            ("the token", frozen.token),
        ):
            _check(name, key or "")
        brief = frozen.token if not hasattr(self._found, "refresh_needed") else _end_within(self._found, ENDS_SOON)
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token or None,  # one without letters would be signed and sent
            "expires_at": datetime.now(UTC) + ASK_EARLY + (ASK_SOON if brief else ASK_AGAIN),
        }


def _check(name: str, key: str) -> None:
    """The client dies of a line end in a key, as files that are read into the environment leave one. The key is not shown."""
    if key != key.strip() or not key.isprintable():
        raise VolumeError(f"{name} begins or ends with a blank, or has a line end or another control character in it: correct it")


def _end_within(keys: "botocore.credentials.Credentials", span: timedelta) -> bool:
    """Whether keys are known to end so soon; when those of a file end is not known."""
    refresh_needed = getattr(keys, "refresh_needed", None)
    return refresh_needed is not None and bool(refresh_needed(span.total_seconds()))


def _line_of(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
