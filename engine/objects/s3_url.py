"""What `--bucket` says for S3: an endpoint and a bucket. Keys have no place in it; they come from where AWS's tools look."""

import re
from typing import NamedTuple
from urllib.parse import urlsplit

from cairnfs.errors import UsageError, VolumeError

FORMS = "https://HOST[:PORT]/BUCKET, https://BUCKET.s3.REGION.amazonaws.com or s3://BUCKET"
_BUCKET = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]{1,254}")
_HOST = re.compile(r"[0-9A-Za-z][0-9A-Za-z._-]*|[0-9A-Fa-f:.]+")  # what the client cannot take for one ends it
_AWS_HOST = re.compile(r"(?:(?P<bucket>.+)\.)?s3(?:[.-](?P<region>[a-z]{2}(?:-[a-z]+)+-\d+))?\.amazonaws\.com(?:\.cn)?")


class S3Url(NamedTuple):
    """A bucket. `endpoint` and `region` are None when the URL does not tell; `is_amazon`: the region's own endpoint."""

    bucket: str
    endpoint: str | None
    region: str | None
    is_amazon: bool = False


def parse_s3_url(url: str) -> S3Url:
    """Read the URL of a bucket. UsageError when it is none, or has keys or a folder in it."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise UsageError(f"'{url}' is not the URL of a bucket ({error}): write {FORMS}") from error
    if parts.scheme not in ("https", "http", "s3") or not _HOST.fullmatch(host):
        raise UsageError(f"'{url}' is not the URL of a bucket: write {FORMS}")
    if "@" in parts.netloc:
        raise UsageError("keys do not belong into --bucket: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or AWS_PROFILE")
    path = parts.path.strip("/")
    if "/" in path or parts.query or parts.fragment or (path and parts.scheme == "s3"):
        raise UsageError(f"'{url}' says more than a bucket (objects get the volume's name as their folder): write {FORMS}")
    if parts.scheme == "s3":
        return _checked(url, S3Url(parts.netloc, None, None))
    aws = _AWS_HOST.fullmatch(host)
    if aws is not None and port is None and parts.scheme == "https" and bool(aws["bucket"]) != bool(path):
        return _checked(url, S3Url(aws["bucket"] or path, None, aws["region"], is_amazon=True))
    if not path:
        raise UsageError(f"'{url}' names no bucket: write {FORMS}")
    return _checked(url, S3Url(path, f"{parts.scheme}://{parts.netloc}", None))


def checked_endpoint(url: str, said_by: str) -> str:
    """The URL of a server. VolumeError when it can be none; keys in it are not shown."""
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("https", "http") and bool(_HOST.fullmatch(parts.hostname or "")) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or "@" in url or not re.fullmatch(r"[!-~]+", url) or parts.query or parts.fragment:
        raise VolumeError(f"{said_by} is not the URL of a server: write https://HOST[:PORT]")
    return url


def _checked(url: str, found: S3Url) -> S3Url:
    if not _BUCKET.fullmatch(found.bucket):
        raise UsageError(f"'{url}': '{found.bucket}' cannot be the name of a bucket")
    return found
