"""Objects in a bucket of any store that speaks S3, through `minio`.

A large object goes up in parts and appears when the last one is in. The foreign errors are
translated here, once, into what an operator can do about them. Knows no Parquet and no batch.
"""

from __future__ import annotations

import functools
import re
import ssl
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, ParamSpec, TypeVar
from urllib.parse import SplitResult, urlsplit

import certifi
import urllib3
from minio import Minio
from minio.deleteobjects import DeleteObject
from minio.error import InvalidResponseError, MinioException, S3Error, ServerError

from engine.archive.store.stores import DEFAULT_PREFIX, FoundObject, S3Access
from engine.base import limits
from engine.base.errors import (
    ArchiveDamaged,
    ArchiveRefused,
    ArchiveUnreachable,
    EngineError,
    InvalidSettings,
)
from engine.config.archive import ArchiveSettings

P = ParamSpec("P")
T = TypeVar("T")

# Labels between dots, 3 to 63 characters in all.
_BUCKET: Final = re.compile(
    r"(?=.{3,63}$)[a-z0-9]+(?:-+[a-z0-9]+)*(?:\.[a-z0-9]+(?:-+[a-z0-9]+)*)*"
)
_ADDRESS: Final = re.compile(r"[0-9]+(?:\.[0-9]+){3}")
_AWS: Final = "s3.amazonaws.com"
_CREDENTIALS: Final = frozenset(
    {
        "InvalidAccessKeyId",
        "SignatureDoesNotMatch",
        "InvalidToken",
        "ExpiredToken",
        "TokenRefreshRequired",
        "AuthorizationHeaderMalformed",
        "InvalidClientTokenId",
    }
)
_PASSING: Final = frozenset(
    {
        "InternalError",
        "SlowDown",
        "ServiceUnavailable",
        "RequestTimeout",
        "OperationAborted",
        # What came is not what was sent.
        "BadDigest",
        "IncompleteBody",
        "XAmzContentSHA256Mismatch",
    }
)
_SHORT: Final = "InvalidRange"
_MISSING: Final = frozenset({"NoSuchKey", "NoSuchObject", "ResourceNotFound"})


class S3Store:
    """An `ObjectStore`."""

    def __init__(self, settings: ArchiveSettings) -> None:
        self._settings = settings
        parts = urlsplit(settings.url)
        self.bucket = parts.netloc
        self._prefix = parts.path.strip("/") or DEFAULT_PREFIX
        self.shown_url = f"s3://{self.bucket}/{self._prefix}"
        _check_names(self.bucket, self._prefix)
        endpoint = _endpoint(settings)
        self.access = S3Access(
            endpoint=endpoint.netloc,
            secure=endpoint.scheme == "https",
            access_key=settings.access_key,
            secret_key=settings.secret_key,
            session_token=settings.session_token,
            region=settings.region,
            path_style=settings.path_style == "always"
            or (settings.path_style == "auto" and endpoint.netloc != _AWS),
            ca_file=settings.ca_file,
        )
        self._http = _pool(settings)
        self._client = Minio(
            endpoint.netloc,
            access_key=settings.access_key or None,
            secret_key=settings.secret_key or None,
            session_token=settings.session_token or None,
            secure=self.access.secure,
            region=settings.region or None,
            http_client=self._http,
        )
        if self.access.path_style:
            self._client.disable_virtual_style_endpoint()  # type: ignore[no-untyped-call]
        else:
            self._client.enable_virtual_style_endpoint()  # type: ignore[no-untyped-call]

    def ensure_ready(self) -> None:
        if self._guarded("", self._client.bucket_exists, self.bucket):
            return
        if not self._settings.create_bucket:
            raise self._no_bucket()
        try:
            self._guarded("", self._client.make_bucket, self.bucket, self._settings.region or None)
        except ArchiveRefused:
            # Somebody else was quicker.
            if not self._guarded("", self._client.bucket_exists, self.bucket):
                raise

    def put(self, key: str, path: Path) -> None:
        self._guarded(
            key,
            self._client.fput_object,
            self.bucket,
            self._name(key),
            str(path),
            "application/vnd.apache.parquet",
            part_size=limits.archive_part_bytes,
            num_parallel_uploads=1,
        )

    def size(self, key: str) -> int | None:
        try:
            found = self._guarded(key, self._client.stat_object, self.bucket, self._name(key))
        except ArchiveDamaged:
            return None
        return int(found.size or 0)

    def read(self, key: str, begin: int, length: int) -> bytes:
        if length == 0:
            return b""
        return self._guarded(key, self._read, key, begin, length)

    def _read(self, key: str, begin: int, length: int) -> bytes:
        response = self._client.get_object(
            self.bucket, self._name(key), offset=begin, length=length
        )
        try:
            data = response.read(length + 1)
        finally:
            response.close()
            response.release_conn()
        if len(data) != length:
            raise ArchiveDamaged(
                f"{self.uri(key)} gave {len(data)} bytes where {length} were asked for", key=key
            )
        return data

    def list(self, prefix: str) -> Iterator[FoundObject]:
        found = self._client.list_objects(self.bucket, self._name(prefix), recursive=True)
        while True:
            entry = self._guarded("", next, found, None)
            if entry is None:
                return
            if entry.object_name is not None and not entry.is_dir:
                key = entry.object_name[len(self._prefix) + 1 :]
                yield FoundObject(key, int(entry.size or 0))

    def list_folders(self, prefix: str) -> Iterator[str]:
        found = self._client.list_objects(self.bucket, self._name(prefix.rstrip("/") + "/"))
        while True:
            entry = self._guarded("", next, found, None)
            if entry is None:
                return
            if entry.is_dir and entry.object_name is not None:
                yield entry.object_name.rstrip("/").rpartition("/")[2]

    def delete(self, keys: Sequence[str]) -> None:
        doomed = [DeleteObject(self._name(key)) for key in keys]
        errors = self._guarded(
            "", lambda: list(self._client.remove_objects(self.bucket, iter(doomed)))
        )
        failed = [error for error in errors if error.code not in _MISSING]
        if failed:
            raise ArchiveUnreachable(
                f"{len(failed)} objects of {self.shown_url} could not be deleted: "
                f"{failed[0].code} {failed[0].message}; it is tried again"
            )

    def uri(self, key: str) -> str:
        return f"s3://{self.bucket}/{self._name(key)}"

    def close(self) -> None:
        self._http.clear()

    def _name(self, key: str) -> str:
        assert ".." not in key.split("/"), key
        return f"{self._prefix}/{key}"

    def _guarded(self, key: str, call: Callable[P, T], *arguments: P.args, **named: P.kwargs) -> T:
        try:
            return call(*arguments, **named)
        except S3Error as error:
            raise self._of_s3(error, key) from error
        except (ServerError, InvalidResponseError, MinioException) as error:
            raise self._unreachable(_said(error)) from error
        except urllib3.exceptions.HTTPError as error:
            raise self._unreachable(_said(error)) from error
        except (OSError, ValueError) as error:
            raise self._unreachable(_said(error)) from error

    def _of_s3(self, error: S3Error, key: str) -> EngineError:
        code = error.code or ""
        if code == "NoSuchBucket":
            return self._no_bucket()
        if code in _MISSING:
            return ArchiveDamaged(f"{self.uri(key)} is missing", key=key)
        if code == _SHORT:
            return ArchiveDamaged(f"{self.uri(key)} is shorter than it must be", key=key)
        if code in _PASSING or error.response.status >= 500:
            return self._unreachable(f"{code or error.response.status}: {error.message}")
        if code in _CREDENTIALS or error.response.status == 401:
            return ArchiveRefused(
                f"{self.shown_url} at {self.access.endpoint} does not accept the credentials "
                f"({code}); set archive.access_key, archive.secret_key and, for temporary ones, "
                "archive.session_token",
                reason=code,
            )
        if code == "RequestTimeTooSkewed":
            return ArchiveRefused(
                f"{self.access.endpoint} and this machine disagree about the time; set the clock",
                reason=code,
            )
        if code == "AccessDenied" or error.response.status == 403:
            return ArchiveRefused(
                f"{self.shown_url} at {self.access.endpoint} denies access ({code}): check the "
                "credentials in archive.access_key and archive.secret_key, and that they may list, "
                "read, write and delete objects of this bucket",
                reason=code,
            )
        return ArchiveRefused(
            f"{self.shown_url} at {self.access.endpoint} refused a request: {code} "
            f"{error.message}; check archive.url, archive.region and archive.path_style",
            reason=code,
        )

    def _no_bucket(self) -> ArchiveRefused:
        return ArchiveRefused(
            f"there is no bucket {self.bucket!r} at {self.access.endpoint}; make it, or set "
            "archive.create_bucket",
            reason="NoSuchBucket",
        )

    def _unreachable(self, said: str) -> ArchiveUnreachable:
        return ArchiveUnreachable(
            f"{self.shown_url} at {self.access.endpoint} does not answer as it should: {said}; "
            "ended runs stay in the hot tier, and it is tried again"
        )


def _said(error: BaseException) -> str:
    """The innermost reason, which is the one that says something."""
    reason = getattr(error, "reason", None)
    if isinstance(reason, BaseException):
        return _said(reason)
    return f"{type(error).__name__}: {error}"[:300]


def _check_names(bucket: str, prefix: str) -> None:
    if not bucket:
        raise _bad_url("names no bucket; write s3://bucket/prefix")
    if not _BUCKET.fullmatch(bucket) or _ADDRESS.fullmatch(bucket):
        raise _bad_url(
            f"names the bucket {bucket!r}, which no bucket can be called: 3 to 63 lower-case "
            "letters, digits, dots and hyphens, beginning and ending with a letter or digit, no "
            "dot beside a dot or hyphen, and not an IP address"
        )
    if {"", ".", ".."} & set(prefix.split("/")):
        raise _bad_url(f"has the prefix {prefix!r}; write names with single slashes between them")


def _bad_url(what: str) -> InvalidSettings:
    return InvalidSettings(f"archive.url {what}", field="archive.url")


def _endpoint(settings: ArchiveSettings) -> SplitResult:
    text = settings.endpoint or f"https://{_AWS}"
    parts = urlsplit(text)
    if parts.scheme not in ("http", "https") or not parts.netloc or parts.path not in ("", "/"):
        raise InvalidSettings(
            f"archive.endpoint {text!r} is not a URL of a host; write http://{text} or "
            f"https://{text}",
            field="archive.endpoint",
        )
    return parts


@functools.cache
def _trusted(ca_file: str) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=ca_file or certifi.where())
    except (OSError, ssl.SSLError) as error:
        raise InvalidSettings(
            f"archive.ca_file {ca_file!r} cannot be read as certificates: {error}",
            field="archive.ca_file",
        ) from error


def _pool(settings: ArchiveSettings) -> urllib3.PoolManager:
    timeout_s = settings.request_timeout_ms / 1_000
    return urllib3.PoolManager(
        timeout=urllib3.Timeout(connect=min(timeout_s, 10.0), read=timeout_s),
        maxsize=limits.archive_requests_at_once_max,
        block=True,
        # A part is put again as it is; more patience than that is the services' backing off.
        retries=urllib3.Retry(
            total=limits.archive_put_retries_max,
            backoff_factor=0.2,
            status_forcelist=[500, 502, 503, 504],
            respect_retry_after_header=False,
        ),
        ssl_context=_trusted(settings.ca_file),
    )
