"""Where the keys for S3 come from: the environment, else everything that AWS's own tools know (profiles, SSO, roles, metadata).

Nothing of it is kept anywhere. botocore is loaded only when the environment alone does not do.
"""

import os
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any

from cairnfs.errors import VolumeError

if TYPE_CHECKING:
    import botocore.credentials
    import botocore.session
    from obstore.store import S3Credential

DEFAULT_REGION = "us-east-1"  # what servers that know no regions expect in a signature
ASK_EARLY = timedelta(minutes=5)  # so long before the end that obstore is told of, it asks again
ASK_AGAIN = timedelta(minutes=5)  # botocore renews keys itself, earlier than this before they end
ASK_SOON = timedelta(seconds=5)  # ... unless whoever makes them gives only such as end sooner (roles of instances do)
ENDS_SOON = ASK_AGAIN + timedelta(minutes=1)
MISSING = "storage s3 needs more packages: pip install 'cairnfs[s3]'"


class Keys:
    """The keys and the region of this process."""

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

        def current() -> "S3Credential":
            frozen = found.get_frozen_credentials()
            return {
                "access_key_id": frozen.access_key,
                "secret_access_key": frozen.secret_key,
                "token": frozen.token or None,  # one without letters would be signed and sent
                "expires_at": datetime.now(UTC) + ASK_EARLY + (ASK_SOON if _ends_soon(found) else ASK_AGAIN),
            }

        return {"credential_provider": current}

    def _asked(self, what: str, ask: Any) -> Any:
        from botocore.exceptions import BotoCoreError

        try:
            return ask()
        except BotoCoreError as error:
            raise VolumeError(f"the {what} for S3 cannot be found: {error}") from error


def _check(name: str, key: str) -> None:
    """The client dies of a line end in a key, as files that are read into the environment leave one. The key is not shown."""
    if key != key.strip() or not key.isprintable():
        raise VolumeError(f"{name} begins or ends with a blank, or has a line end or another control character in it: correct it")


def _ends_soon(keys: "botocore.credentials.Credentials") -> bool:
    """Whether keys may end before they are asked for after `ASK_AGAIN`; those of a file never end."""
    refresh_needed = getattr(keys, "refresh_needed", None)
    return refresh_needed is not None and bool(refresh_needed(ENDS_SOON.total_seconds()))
