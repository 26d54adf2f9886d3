"""Carries out one request of the engine on a tenant's database, and hands out the rows in parts.

Says what it had to leave out. Knows no sockets: it is given where the parts go.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final, Protocol

import pyarrow as pa

from engine.base import limits
from engine.base.errors import InvalidQuery
from engine.base.ids import TenantId
from engine.query import listing, messages
from engine.query.child import values
from engine.query.child.database import Selected as Relation
from engine.query.child.database import Session
from engine.query.child.lists import read_views
from engine.query.child.statements import check, located
from engine.query.child.tables import make_views, without_unreadable
from engine.query.ports import StoreAccess


class Sink(Protocol):
    """Where the parts of an answer go. Waits while nobody takes them."""

    def part(self, data: bytes) -> None: ...

    def restart(self) -> None:
        """What was handed over so far does not count."""


class Answering:
    """The requests of one process; one after the other."""

    def __init__(self, access: StoreAccess, sink: Sink) -> None:
        self._access = access
        self._sink = sink

    def check(self, session: Session, request: messages.Check) -> messages.Checked:
        checked = check(request.sql, session.parse, session.tree)
        return messages.Checked(tuple(sorted(checked.views)))

    def select(
        self,
        session: Session,
        tenant: TenantId,
        request: messages.Select,
        hot: Mapping[str, bytes],
    ) -> messages.Selected:
        files = {"runs": request.run_files, "steps": request.step_files}
        unreadable = dict(request.unreadable)
        for name in request.views:
            session.store(f"hot_{name}", hot[name])

        def attempt() -> messages.Selected:
            self._sink.restart()
            make_views(session, tenant, _readable(files, request.views, unreadable))
            try:
                return self._fetch(session, request)
            except InvalidQuery as error:
                raise located(error, request.sql, session.execute) from error

        suspects = [file for name in request.views for file in files[name]]
        found = without_unreadable(session, self._access, suspects, unreadable, attempt)
        return messages.Selected(
            columns=found.columns,
            types=found.types,
            truncated=found.truncated,
            unreadable=unreadable,
        )

    def list_runs(self, session: Session, request: messages.ListRuns) -> messages.Listed:
        unreadable = dict(request.unreadable)

        def attempt() -> messages.Listed:
            readable = [file for file in request.files if file not in unreadable]
            page = listing.read_page(
                lambda some: read_views(session, request.chosen, some),
                request.chosen,
                request.hot,
                readable,
            )
            return messages.Listed(page=page, unreadable=unreadable)

        return without_unreadable(session, self._access, request.files, unreadable, attempt)

    def _fetch(self, session: Session, request: messages.Select) -> messages.Selected:
        relation = session.select(request.sql, request.parameters or ())
        if request.as_arrow:
            truncated = _send_arrow(self._sink, relation, request.rows_max, request.bytes_max)
        else:
            truncated = _send_rows(self._sink, relation, request.rows_max, request.bytes_max)
        return messages.Selected(
            columns=relation.columns,
            types=tuple(name for _, name in relation.types),
            truncated=truncated,
            unreadable={},
        )


def _readable(
    files: Mapping[str, Sequence[str]], views: Sequence[str], unreadable: Mapping[str, str]
) -> dict[str, list[str]]:
    return {name: [file for file in files[name] if file not in unreadable] for name in views}


# ---- rows ----


def _send_rows(sink: Sink, relation: Relation, rows_max: int, bytes_max: int) -> bool:
    """Rows of values that JSON can carry; whether there were more than may be answered."""
    readers = values.readers(relation.types)
    part: list[tuple[Any, ...]] = []
    part_bytes = 0
    room = bytes_max
    is_truncated = False
    # One more than is asked for, to know whether there are more.
    for number, row in enumerate(_plain_rows(relation, rows_max + 1, readers)):
        size = sum(map(values.size_of, row))
        room -= size
        if number == rows_max or room < 0:
            is_truncated = True
            break
        part.append(row)
        part_bytes += size
        if part_bytes >= limits.query_part_bytes_max:
            sink.part(messages.encode(part))
            part, part_bytes = [], 0
    if part:
        sink.part(messages.encode(part))
    return is_truncated


def _plain_rows(
    relation: Relation, rows_max: int, readers: Sequence[Callable[[Any], Any]]
) -> Iterator[tuple[Any, ...]]:
    for row in relation.rows(values.projection(relation.types), rows_max):
        yield tuple([read(value) for read, value in zip(readers, row, strict=True)])


# ---- Arrow ----


class _Parts:
    """A file to write to, whose bytes are handed over in parts."""

    closed: Final = False

    def __init__(self, sink: Sink) -> None:
        self._sink = sink
        self._waiting: list[bytes] = []
        self._waiting_bytes = 0
        self.written = 0

    def write(self, data: Any) -> int:
        self._waiting.append(bytes(data))
        self._waiting_bytes += len(self._waiting[-1])
        self.written += len(self._waiting[-1])
        if self._waiting_bytes >= limits.query_part_bytes_max:
            self.flush()
        return len(data)

    def flush(self) -> None:
        if self._waiting:
            for piece in messages.pieces(b"".join(self._waiting)):
                self._sink.part(bytes(piece))
            self._waiting, self._waiting_bytes = [], 0

    def close(self) -> None:
        self.flush()

    def writable(self) -> bool:
        return True


def _send_arrow(sink: Sink, relation: Relation, rows_max: int, bytes_max: int) -> bool:
    """An Arrow IPC stream of the rows, the types as they are; whether there were more."""
    schema, batches = relation.batches(rows_max + 1)
    parts = _Parts(sink)
    is_truncated = False
    rows_left = rows_max
    with pa.ipc.new_stream(parts, schema) as writer:
        for batch in batches:
            # A batch that is larger than what is left of the bytes is taken in smaller ones.
            for some in _sliced(batch.slice(0, rows_left)):
                if parts.written + some.nbytes > bytes_max:
                    is_truncated = True
                    break
                writer.write_batch(some)
            is_truncated = is_truncated or batch.num_rows > rows_left
            rows_left -= min(batch.num_rows, rows_left)
            if is_truncated:
                break
    parts.flush()
    return is_truncated


def _sliced(batch: pa.RecordBatch) -> Iterator[pa.RecordBatch]:
    if not batch.num_rows:
        return
    rows = max(1, limits.query_part_bytes_max * batch.num_rows // max(1, batch.nbytes))
    for first in itertools.count(0, rows):
        if first >= batch.num_rows:
            return
        yield batch.slice(first, rows)
