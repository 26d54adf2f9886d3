"""Whether a tenant's journal can take what somebody brings. The doors leave a reserve, in which the
engine writes what follows from what it has taken.
"""

from __future__ import annotations

from engine.base import limits
from engine.base.errors import JournalBusy
from engine.journal.tenant import TenantJournal


async def wait_for_room(journal: TenantJournal) -> None:
    """For the doors: until the journal can take what they bring. Raises if it is stopped."""
    await journal.wait_until_writable(limits.pending_records_reserve, limits.pending_bytes_reserve)


def check_room(journal: TenantJournal) -> None:
    """For the doors, where nothing was waited for."""
    _check(journal, limits.pending_records_reserve, limits.pending_bytes_reserve)


def check_writable(journal: TenantJournal, record_count: int) -> None:
    """For the engine itself."""
    _check(journal, record_count, 0)


def _check(journal: TenantJournal, record_count: int, byte_count: int) -> None:
    committer = journal.committer
    committer.raise_if_stopped()
    if not committer.has_room_for(record_count, byte_count):
        pending = committer.pending
        raise JournalBusy(
            f"{pending.record_count} records ({pending.byte_count} bytes) wait for the disk, which "
            "is the limit; try again in a moment"
        )
