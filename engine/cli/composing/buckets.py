"""`engine dev --s3 URL`: the archive of a laptop in an S3 server on the same laptop or beside it.

Owns how little has to be said for that: the bucket's name, that it is made, and where keys come
from. Knows no S3; the settings that come out are the ones that `engine serve` takes.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import Final
from urllib.parse import urlsplit

import msgspec

from engine.base.errors import InvalidSettings
from engine.config.archive import ArchiveSettings

BUCKET_DEFAULT: Final = "engine"
# What MinIO accepts as it is shipped. Nobody but this machine is trusted with such keys.
_SHIPPED_KEY: Final = "minioadmin"


def archive_in_s3(
    settings: ArchiveSettings, endpoint: str, environment: Mapping[str, str]
) -> ArchiveSettings:
    """The settings with their objects in that server. What they say of keys and bucket stays; then
    the AWS_* variables count, then what MinIO is shipped with, if the server is on this machine."""
    parts = urlsplit(endpoint)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise InvalidSettings(
            f"--s3 {endpoint!r} is not a URL: write http://HOST:PORT, such as "
            "http://127.0.0.1:9000",
            setting="archive.endpoint",
        )
    bucket = parts.path.strip("/") or BUCKET_DEFAULT
    changed = msgspec.structs.replace(
        settings,
        enabled=True,
        url=settings.url if settings.is_s3 else f"s3://{bucket}",
        endpoint=f"{parts.scheme}://{parts.netloc}",
        create_bucket=True,
    )
    if settings.access_key:
        return changed
    if environment.get("AWS_ACCESS_KEY_ID"):
        return msgspec.structs.replace(
            changed,
            access_key=environment["AWS_ACCESS_KEY_ID"],
            secret_key=environment.get("AWS_SECRET_ACCESS_KEY", ""),
            session_token=environment.get("AWS_SESSION_TOKEN", ""),
        )
    if not is_loopback(parts.hostname):
        raise InvalidSettings(
            f"--s3 {endpoint} is on another machine and needs keys: set ENGINE_ARCHIVE__ACCESS_KEY"
            " and ENGINE_ARCHIVE__SECRET_KEY, or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY",
            setting="archive.access_key",
        )
    return msgspec.structs.replace(changed, access_key=_SHIPPED_KEY, secret_key=_SHIPPED_KEY)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
