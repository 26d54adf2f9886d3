"""One request at a time on a thread of its own, and what becomes of what it raises.

Whatever goes wrong is an answer, typed where it is the user's; only the operating system ends the
process without one. Knows no sockets.
"""

from __future__ import annotations

import contextlib
import queue
import threading
import traceback
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Final, Protocol

from engine.base.errors import EngineError, QueryTooLarge
from engine.base.ids import TenantId
from engine.query import messages
from engine.query.child import confinement, database
from engine.query.child.answering import Answering
from engine.query.child.database import Databases, Session
from engine.query.child.failures import DatabaseBroken, Interrupted
from engine.query.child.sending import Sink
from engine.query.messages import Kind

_TOO_LARGE: Final = (
    "the query needs more memory than a query may take; aggregate sooner, or read fewer days and "
    "columns"
)


class Out(Sink, Protocol):
    def send(self, kind: Kind, data: bytes) -> None: ...


class Serving:
    def __init__(self, prepared: messages.Prepare, out: Out) -> None:
        self._prepared = prepared
        self._out = out
        self._answering = Answering(prepared.access, out)
        self._databases: Databases | None = None
        self._tenant: TenantId | None = None
        self._asked: queue.SimpleQueue[tuple[messages.Request, Mapping[str, bytes]]]
        self._asked = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._session: Session | None = None
        self._is_stopped = False
        database.warm_up()

    def open(self, tenant: TenantId | None) -> None:
        self._tenant = tenant
        self._databases = Databases(
            self._prepared.settings,
            self._prepared.access,
            Path(self._prepared.scratch),
            open_max=1 if tenant is not None else self._prepared.settings.instances_max,
        )
        # Begun once: where memory has become short no thread can be begun any more.
        threading.Thread(target=self._work, daemon=True).start()

    def begin(self, request: messages.Request, hot: Mapping[str, bytes]) -> None:
        with self._lock:
            self._is_stopped = False
        self._asked.put((request, hot))

    def stop(self) -> None:
        """What runs ends soon, with an answer that nobody wants any more. A statement that has not
        quite begun does not hear it: the session remembers, and refuses the next one."""
        with self._lock:
            self._is_stopped = True
            if self._session is not None:
                self._session.interrupt()

    def _work(self) -> None:
        while True:
            self._carry_out(*self._asked.get())

    def _carry_out(self, request: messages.Request, hot: Mapping[str, bytes]) -> None:
        confinement.limit_cpu(self._prepared.settings.time_limit_ms / 1_000)
        try:
            answer = self._answer(request, hot)
            kind, data = Kind.DONE, messages.encode(answer)
        except BaseException as error:  # noqa: BLE001 - an answer, like any other
            kind, data = Kind.FAILED, messages.encode(_failed(error))
        with contextlib.suppress(OSError):  # the main thread has seen that the engine is gone
            self._out.send(kind, data)

    def _answer(self, request: messages.Request, hot: Mapping[str, bytes]) -> messages.Answer:
        databases = self._databases
        assert databases is not None
        if isinstance(request, messages.Forget):
            databases.forget(request.tenant)
            return messages.Forgotten()
        tenant = request.tenant if isinstance(request, messages.ListRuns) else self._tenant
        # A process of one tenant answers no other, and that of the lists runs no SQL of users.
        assert tenant is not None
        assert self._tenant in (None, tenant)
        with self._session_of(databases, tenant) as session:
            if isinstance(request, messages.Check):
                return self._answering.check(session, request)
            if isinstance(request, messages.Select):
                return self._answering.select(session, tenant, request, hot)
            return self._answering.list_runs(session, request)

    @contextlib.contextmanager
    def _session_of(self, databases: Databases, tenant: TenantId) -> Iterator[Session]:
        with databases.session(tenant) as session:
            with self._lock:
                self._session = session
                if self._is_stopped:
                    session.interrupt()
            try:
                yield session
            finally:
                with self._lock:
                    self._session = None


def _failed(error: BaseException) -> messages.Failed:
    if isinstance(error, Interrupted):
        return messages.Failed(code="query_timeout", message="the query was stopped")
    if isinstance(error, EngineError):
        # What has met the end of its memory does not give all of it back.
        is_broken = isinstance(error, QueryTooLarge)
        return messages.Failed(code=error.code, message=error.message, is_broken=is_broken)
    if isinstance(error, DatabaseBroken):
        said = f"the query broke its database: {error}"
        return messages.Failed(code="invalid_query", message=said, is_broken=True)
    if isinstance(error, MemoryError):
        return messages.Failed(code="query_too_large", message=_TOO_LARGE, is_broken=True)
    if isinstance(error, RecursionError):
        said = "the answer is nested too deeply"
        return messages.Failed(code="invalid_query", message=said)
    told = "".join(traceback.format_exception(error))
    return messages.Failed(code="", message=told[-4_000:], is_broken=True)
