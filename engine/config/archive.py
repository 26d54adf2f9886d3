"""Settings of the archive: where ended runs go, how soon, and how long each tier keeps them.

Owns what may be said; what a store needs of it is read in `engine/archive`. Keys are never shown:
`shown_url` is what goes into messages.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from engine.base import limits


class ArchiveSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Where ended runs are kept: a directory, or a bucket of any store that speaks S3."""

    enabled: bool = True
    # "": the directory `archive` in the data directory; a path; or "s3://bucket/prefix".
    url: str = ""
    # Of an S3 store: "http://minio:9000"; "" is AWS itself.
    endpoint: str = ""
    access_key: str = ""
    secret_key: str = ""
    session_token: str = ""
    region: str = "us-east-1"
    path_style: Literal["auto", "always", "never"] = "auto"
    ca_file: str = ""
    create_bucket: bool = False
    request_timeout_ms: Annotated[int, msgspec.Meta(ge=100, le=600_000)] = 30_000

    flush_interval_ms: Annotated[
        int,
        msgspec.Meta(ge=limits.archive_interval_ms_min, le=limits.archive_interval_ms_max),
    ] = 10_000
    # So many ended runs are flushed before the interval is over.
    flush_threshold: Annotated[int, msgspec.Meta(ge=1, le=limits.archive_batch_runs_max)] = 1_000
    # How long an archived run also stays where it was.
    hot_retention_s: Annotated[int, msgspec.Meta(ge=0)] = 3_600
    # Archived days older than this are deleted; None: kept for ever. By tenant, then for all.
    cold_retention_days: Annotated[int, msgspec.Meta(ge=1)] | None = None
    cold_retention_days_by_tenant: dict[str, Annotated[int, msgspec.Meta(ge=1)]] = msgspec.field(
        default_factory=dict
    )
    # How long an idempotency key is remembered.
    idempotency_retention_s: Annotated[int, msgspec.Meta(ge=1)] = 86_400
    # Small objects of a day become fewer, and one when it is over. An object that was replaced is
    # deleted after the grace, which is longer than any query may take.
    compaction: bool = True
    replaced_grace_s: Annotated[int, msgspec.Meta(ge=0)] = 600

    @property
    def is_s3(self) -> bool:
        return self.url.startswith("s3://")

    def cold_days_of(self, tenant: str) -> int | None:
        return self.cold_retention_days_by_tenant.get(tenant, self.cold_retention_days)
