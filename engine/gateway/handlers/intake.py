"""`POST /v1/runs:batch`: many starts as lines of JSON, answered line by line in the same order.

Lines are committed a bounded chunk at a time while the rest is still on its way. The answers, a
few bytes a line, are kept until the body has been read: a client that writes everything before it
reads anything would otherwise block us and itself. A line that is wrong is answered with its
problem and the others go on. When the whole cannot go on, the answers so far are sent with the
status and the problem of what stopped it; what was answered has been started.
"""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Sequence
from typing import Final

import msgspec

from engine.base.errors import EngineError, LimitExceeded
from engine.base.ids import deployment_id
from engine.gateway.api import reading
from engine.gateway.api.exchange import NDJSON_TYPE, Exchange, Held, Response
from engine.gateway.api.problems import BodyTooLarge, problem_bytes, problem_response
from engine.gateway.api.routes import KINDS
from engine.gateway.api.shapes import StartLine
from engine.gateway.door.door import Door
from engine.gateway.handlers import answers
from engine.gateway.handlers.starting import Caller, caller_of
from engine.gateway.settings import (
    batch_chunk_bytes_max,
    batch_chunk_starts_max,
    batch_drop_bytes_max,
)
from engine.model.context import RequestContext
from engine.model.views import StartRequest

_DECODER: Final = msgspec.json.Decoder(StartLine)


async def runs_batch(
    door: Door, context: RequestContext, exchange: Exchange, parameters: tuple[str, ...]
) -> Response:
    intake = _Intake(door, context, caller_of(door, exchange.headers, context))
    try:
        with exchange.holding() as held:
            reader = LineReader(
                exchange,
                held,
                body_bytes_max=door.settings.batch_body_bytes_max,
                line_bytes_max=door.settings.body_bytes_max,
            )
            while chunk := await reader.next_chunk():
                await intake.take(chunk)
    except EngineError as error:
        stopped = problem_response(error)
        if not intake.answers:
            return stopped
        await _drop_rest(exchange)
        intake.answers.append(stopped.body)
        return Response(intake.body(), stopped.status, NDJSON_TYPE, stopped.headers)
    return Response(intake.body(), 200, NDJSON_TYPE)


async def _drop_rest(exchange: Exchange) -> None:
    """Runs have been started: who is still sending has to come as far as to read which."""
    with contextlib.suppress(EngineError):  # then it has had its time, and its bytes
        while await exchange.read_piece(batch_drop_bytes_max):
            pass


class LineReader:
    """The lines of a body, a bounded chunk at a time; blank ones are left out."""

    def __init__(
        self, exchange: Exchange, held: Held, *, body_bytes_max: int, line_bytes_max: int
    ) -> None:
        self._exchange = exchange
        self._held = held
        self._body_bytes_max = body_bytes_max
        self._line_bytes_max = line_bytes_max
        self._lines: deque[bytes] = deque()
        self._rest = bytearray()
        self._is_at_end = False

    async def next_chunk(self) -> list[bytes]:
        """Empty behind the last line."""
        chunk: list[bytes] = []
        chunk_bytes = 0
        while len(chunk) < batch_chunk_starts_max and chunk_bytes < batch_chunk_bytes_max:
            if self._lines:
                line = self._lines.popleft()
                self._held.add(-len(line))
                chunk.append(line)
                chunk_bytes += len(line)
            elif self._is_at_end:
                break
            else:
                await self._read_more()
        return chunk

    async def _read_more(self) -> None:
        piece = await self._exchange.read_piece(self._body_bytes_max)
        if not piece:
            self._is_at_end = True
            self._take_lines([b""])
            return
        self._held.add(len(piece) - piece.count(b"\n"))
        first, *others = piece.split(b"\n")
        if others:
            last = others.pop()
            self._take_lines([first, *others])
            self._rest += last
        else:
            self._rest += first
        self._check_line(len(self._rest))

    def _take_lines(self, lines: Sequence[bytes]) -> None:
        """All of them are complete now; the first one goes on with what there was."""
        first, *others = lines
        complete = [bytes(self._rest + first), *others]
        self._rest = bytearray()
        for line in complete:
            self._check_line(len(line))
            if line.strip():
                self._lines.append(line)
            else:
                self._held.add(-len(line))

    def _check_line(self, length: int) -> None:
        if length > self._line_bytes_max:
            raise BodyTooLarge(
                f"a line has more than {self._line_bytes_max} bytes; put large data elsewhere "
                "and pass a reference to it",
                limit=self._line_bytes_max,
            )


class _Intake:
    def __init__(self, door: Door, context: RequestContext, caller: Caller) -> None:
        self._door = door
        self._context = context
        self._caller = caller
        self.answers: list[bytes] = []

    def body(self) -> bytes:
        self.answers.append(b"")
        return b"\n".join(self.answers)

    async def take(self, lines: Sequence[bytes]) -> None:
        """Starts what the lines ask for, in one commit, and answers each."""
        lines_max = self._door.settings.batch_lines_max
        if len(self.answers) + len(lines) > lines_max:
            raise LimitExceeded(
                f"more than {lines_max} lines; send the ones that were not answered in another "
                "request",
                limit=lines_max,
            )
        read = [self._read(number, line) for number, line in enumerate(lines, len(self.answers))]
        requests = [request for request in read if isinstance(request, StartRequest)]
        started = iter(await self._door.handle.start_many(self._context, requests))
        for request in read:
            if isinstance(request, StartRequest):
                self.answers.append(answers.batch_item(self._door, next(started)))
            else:
                self.answers.append(problem_bytes(request))

    def _read(self, number: int, line: bytes) -> StartRequest | EngineError:
        what = f"line {number + 1}"
        try:
            return start_of_line(reading.typed_json(_DECODER, line, what), self._caller, what)
        except EngineError as error:
            return error


def _user_of(line: StartLine, caller: Caller) -> str:
    if line.user_id is None or caller.is_user_settled:
        return caller.user_id
    return line.user_id


def start_of_line(line: StartLine, caller: Caller, what: str) -> StartRequest:
    deployment = line.deployment_id
    return StartRequest(
        component=line.component,
        kind=None if line.kind is None else KINDS[line.kind],
        input=reading.NULL
        if line.input is msgspec.UNSET
        else reading.checked_json(bytes(line.input), f"the input of {what}"),
        deployment_id=caller.deployment_id if deployment is None else deployment_id(deployment),
        idempotency_key=line.idempotency_key,
        session_id=caller.session_id if line.session_id is None else line.session_id,
        user_id=_user_of(line, caller),
        trace_id=caller.trace_id if line.trace_id is None else line.trace_id,
        correlation_id=line.correlation_id,
        tags=line.tags,
        prompt_version=line.prompt_version,
        start_at_ms=line.start_at_ms,
        entity_key=line.entity_key,
    )
