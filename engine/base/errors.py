"""Every operating error of the engine, each with a stable code and a message that says what to do.

Programmer errors are assertions, not members of this file. Nothing here knows HTTP, gRPC or
RocksDB: the doors translate a code into their protocol, `journal/store.py` translates the driver's
exceptions into these.
"""

from __future__ import annotations

from typing import ClassVar


class EngineError(Exception):
    """Base of all typed errors. `details` are the machine-readable facts behind the message."""

    code: ClassVar[str] = "engine_error"

    def __init__(self, message: str, **details: object) -> None:
        super().__init__(message)
        self.message = message
        self.details = details

    def again(self) -> EngineError:
        """The same for somebody else: an exception that is raised twice has two tracebacks."""
        return type(self)(self.message, **self.details)


class InvalidName(EngineError):
    """An identifier from outside is not of the allowed form; nothing was written."""

    code = "invalid_name"


class LimitExceeded(EngineError):
    """A size or count is over its bound in `base/limits.py`; nothing was written."""

    code = "limit_exceeded"


class InvalidSettings(EngineError):
    """A setting from a file, a flag or the environment is not usable."""

    code = "invalid_settings"


class AppendConflict(EngineError):
    """The caller expected another next offset: somebody else wrote first. Read, decide, retry."""

    code = "append_conflict"


class SegmentSealed(EngineError):
    """The run's segment is sealed: no record may follow its last one."""

    code = "segment_sealed"


class OffsetTrimmed(EngineError):
    """The records asked for were trimmed; reading can begin at `first_offset`."""

    code = "offset_trimmed"


class MalformedRecord(EngineError):
    """Bytes that should be a record are not one. Never raised for data this engine wrote whole."""

    code = "malformed_record"


class JournalClosed(EngineError):
    """The journal or this tenant's store was closed while the call was under way."""

    code = "journal_closed"


class JournalBusy(EngineError):
    """More is waiting for the disk than the bound allows; wait for a commit and call again."""

    code = "journal_busy"


class DirectoryInUse(EngineError):
    """Another process holds the data directory."""

    code = "directory_in_use"


class TenantUnknown(EngineError):
    """No store exists for the tenant and the caller asked not to create one."""

    code = "tenant_unknown"


class TenantLimitReached(EngineError):
    """All stores that may be open are open and in use; none can be closed to make room."""

    code = "tenant_limit_reached"


class StorageFailed(EngineError):
    """A commit failed for good: the tenant is stopped, since memory may be ahead of disk."""

    code = "storage_failed"


class TenantFailed(StorageFailed):
    """Something failed that nobody foresaw, in the work for one tenant: it is stopped, and taken up
    again from its disk, which is well as far as anybody knows."""

    @classmethod
    def by(cls, failure: BaseException, doing: str) -> TenantFailed:
        """What callers are told; what it was is the log's, since it may hold anybody's values."""
        return cls(
            f"{doing} failed in a way that nobody foresaw ({type(failure).__name__}); the tenant "
            "goes on from what is on the disk, and the runtime's log says more"
        )


class InternalFailure(EngineError):
    """A defect of the engine; its log says which."""

    code = "internal_error"


class StorageFull(EngineError):
    """No room on the disk. Nothing was acknowledged; writing resumes once there is room."""

    code = "storage_full"


class StorageDamaged(EngineError):
    """Bytes on disk are not what was written. Names the file and the way out."""

    code = "storage_damaged"


class BackupInvalid(EngineError):
    """A backup is incomplete, of another version, or would overwrite data."""

    code = "backup_invalid"


class UnknownComponent(EngineError):
    """No worker of this tenant and deployment has registered the component."""

    code = "unknown_component"


class UnknownRun(EngineError):
    """The tenant has no run of this id."""

    code = "unknown_run"


class RunTerminal(EngineError):
    """The run has ended; nothing can be done to it any more."""

    code = "run_terminal"


class InvalidInput(EngineError):
    """A value from outside does not have the form that is asked for; names the field."""

    code = "invalid_input"


class IdempotencyConflict(EngineError):
    """The idempotency key was used before, with another input."""

    code = "idempotency_conflict"


class Unauthorized(EngineError):
    """The caller did not say who it is, or is not who it says."""

    code = "unauthorized"


class RateLimited(EngineError):
    """The caller asks for more than it may; says when to come again."""

    code = "rate_limited"


class StaleFence(EngineError):
    """A frame of an earlier lease: somebody else holds the run. Nothing was changed."""

    code = "stale_fence"


class UnknownWait(EngineError):
    """The run has no open wait of this id."""

    code = "unknown_wait"


class NoStateScope(EngineError):
    """The run has no session, user or entity whose state it could read or change."""

    code = "no_state_scope"


class NotDeterministic(EngineError):
    """The code asked for another operation than the journal has at this position."""

    code = "not_deterministic"


class NotSerializable(EngineError):
    """A value cannot be written as JSON; names where in the value."""

    code = "not_serializable"


class DuplicateComponent(EngineError):
    """Two components of one registration have the same name."""

    code = "duplicate_component"


class UnsupportedSdk(EngineError):
    """The worker's SDK speaks another protocol than this engine."""

    code = "unsupported_sdk"


class InvalidEndpoint(EngineError):
    """An endpoint is not a URL with http:// or https://."""

    code = "invalid_endpoint"


class Gone(EngineError):
    """What was asked for existed and is not kept any more."""

    code = "gone"


class AddressInUse(EngineError):
    """Another process listens where this one was told to; names the option to change."""

    code = "address_in_use"


class InvalidQuery(EngineError):
    """The SQL cannot be answered as it is written; says where it goes wrong."""

    code = "invalid_query"


class QueryRefused(EngineError):
    """The SQL asks for something that a query may not do or may not see."""

    code = "query_refused"


class QueryTimeout(EngineError):
    """The query took longer than a query may; narrow it."""

    code = "query_timeout"


class ArchiveUnreachable(EngineError):
    """The archive's store does not answer, or answers that it cannot now. Tried again."""

    code = "archive_unreachable"


class ArchiveRefused(EngineError):
    """The archive's store does not let us in: wrong keys, no bucket. Names the setting."""

    code = "archive_refused"


class ArchiveDamaged(EngineError):
    """An object of the archive is missing, short or not what was written. Names the object."""

    code = "archive_damaged"


class QueryTooLarge(EngineError):
    """The query needs more memory or scratch space than one tenant has; it was stopped."""

    code = "query_too_large"


class QueryBusy(EngineError):
    """Too many queries wait already; come again later."""

    code = "query_busy"
