"""The views `runs` and `steps` of one query, and how a query gets along without a damaged file.

A view is made of exactly the files and the hot rows of one snapshot. Files come and go beside us: a
bucket has rules of its own, and disks rot. A file that cannot be read is left out, named, tried
again later, and the others answer. Knows no SQL of users.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

from engine.base import limits
from engine.base.errors import ArchiveDamaged, EngineError, InvalidQuery
from engine.base.ids import TenantId
from engine.query.child.database import Parameters, Session
from engine.query.child.failures import ReadingFailed, cleaned
from engine.query.ports import StoreAccess

Result = TypeVar("Result")


def make_views(session: Session, tenant: TenantId, readable: Mapping[str, Sequence[str]]) -> None:
    """Makes the views of the session: of each the files that can be read, and its hot rows, that
    are there as a table."""
    for name in sorted(readable):
        view = _view(name, tenant, readable[name])
        read(session, f"CREATE OR REPLACE TEMP VIEW {name} AS {view}")


def read(session: Session, sql: str, parameters: Parameters = ()) -> list[tuple[Any, ...]]:
    """A statement of ours: whatever is wrong with it is wrong with what it reads."""
    try:
        return session.execute(sql, parameters)
    except InvalidQuery as error:
        raise ReadingFailed(error.message, is_sure=False) from error


def _view(name: str, tenant: TenantId, files: Sequence[str]) -> str:
    # Hot first: its columns are today's, and give the view their order.
    hot = (
        f"SELECT *, CAST('{tenant}' AS VARCHAR) AS tenant, "
        f"CAST(epoch_ms(completed_ms) AS DATE) AS day FROM hot_{name}"
    )
    return f"{hot} UNION ALL BY NAME FROM {parquet(files)}" if files else hot


def parquet(files: Sequence[str]) -> str:
    """The table of these files. Their schemas may differ: what one does not have is NULL."""
    listed = ", ".join("'" + file.replace("'", "''") + "'" for file in files)
    return (
        f"read_parquet([{listed}], union_by_name = true, hive_partitioning = true, "
        "hive_types = {'tenant': VARCHAR, 'day': DATE})"
    )


def without_unreadable(
    session: Session,
    access: StoreAccess,
    files: Sequence[str],
    unreadable: dict[str, str],
    attempt: Callable[[], Result],
) -> Result:
    """What `attempt` returns, once everything that it cannot read is in `unreadable`."""
    while len(unreadable) <= limits.query_unreadable_files_max:
        try:
            return attempt()
        except ReadingFailed as error:
            found = None
            if error.is_of_the_file(access):
                suspects = [file for file in files if file not in unreadable]
                found = _found_bad(session, access, error.narrowed(suspects))
            if found is None:
                raise _other_fault(error, access) from error
            unreadable.update([found])
    raise ArchiveDamaged(
        f"more than {limits.query_unreadable_files_max} files of the archive cannot be read; "
        "`engine archive verify` names them"
    )


def _other_fault(error: ReadingFailed, access: StoreAccess) -> EngineError:
    """Of the store, or of the SQL: a text of the user's may read like a fault of a file."""
    return (
        error.of_the_store(access)
        if error.is_sure
        else InvalidQuery(cleaned(error.message, access))
    )


def _found_bad(
    session: Session, access: StoreAccess, suspects: Sequence[str]
) -> tuple[str, str] | None:
    """The first of them that cannot be read, and why. A driver that fails on a file's footer does
    not say whose it is: then all of them are suspects, and only their footers."""
    counted = "COLUMNS(*)" if len(suspects) == 1 else "*"
    for file in suspects:
        reason = _fault(session, access, file, counted)
        if reason is not None:
            return file, reason
    return None


def _fault(session: Session, access: StoreAccess, file: str, counted: str) -> str | None:
    """Why the file cannot be read; None if it can."""
    try:
        session.execute(f"SELECT count({counted}) FROM {parquet([file])}")
    except ReadingFailed as error:
        if error.is_gone:
            return "it is not there any more"
        return cleaned(error.message, access).partition("\n")[0]
    except InvalidQuery as error:
        return error.message.partition("\n")[0]
    return None
