"""Carries out one request of the engine on a tenant's database.

Says what it had to leave out. Knows no sockets: it is given where the parts go.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from engine.base.errors import InvalidQuery
from engine.base.ids import TenantId
from engine.query import listing, messages
from engine.query.child.database import Session
from engine.query.child.lists import read_views
from engine.query.child.sending import Sink, send_arrow, send_rows
from engine.query.child.statements import check, located
from engine.query.child.tables import make_views, without_unreadable
from engine.query.ports import StoreAccess


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
            truncated = send_arrow(
                self._sink,
                relation.batches(request.rows_max + 1),
                request.rows_max,
                request.bytes_max,
            )
        else:
            truncated = send_rows(self._sink, relation, request.rows_max, request.bytes_max)
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
