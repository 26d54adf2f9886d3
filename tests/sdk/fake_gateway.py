"""A gateway small enough to read, on a real socket: a few runs, their events, and bad moments.

A run is started with what it will become as its input: {"output": ...} or {"error": ...} ends it at
once, {"waits": n} lets it be asked n times before it has ended.
"""

from __future__ import annotations

import dataclasses
import itertools
import json
import socketserver
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

TERMINAL = ("COMPLETED", "FAILED", "CANCELLED")


@dataclasses.dataclass
class Asked:
    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: Any


@dataclasses.dataclass
class GatewayRun:
    run_id: str
    becomes: dict[str, Any]
    status: str = "RUNNING"
    asked_left: int = 0
    signals: list[Any] = dataclasses.field(default_factory=list)
    answers: dict[str, Any] = dataclasses.field(default_factory=dict)

    def answer(self) -> dict[str, Any]:
        answer = {"run_id": self.run_id, "status": self.status}
        if self.status == "COMPLETED":
            answer["output"] = self.becomes.get("output")
        elif self.status == "FAILED":
            answer["error"] = self.becomes["error"]
        return answer

    def move(self) -> None:
        if self.status in TERMINAL:
            return
        if self.asked_left > 0:
            self.asked_left -= 1
        else:
            self.status = "FAILED" if "error" in self.becomes else "COMPLETED"


class Problem(Exception):
    def __init__(self, status: int, code: str, detail: str, **more: Any) -> None:
        super().__init__(detail)
        self.status = status
        self.document = {"code": code, "title": code, "detail": detail, "status": status, **more}


class FakeGateway:
    def __init__(self) -> None:
        self.asked: list[Asked] = []
        self.runs: dict[str, GatewayRun] = {}
        self.events = [
            f"id: {number}\nevent: {name}\ndata: {number}\n\n".encode()
            for number, name in enumerate(["run.queued", "run.started", "a.step.completed"])
        ]
        self.events.append(b'event: output.delta\ndata: "live"\n\n')
        self.events.append(b"id: 3\nevent: run.completed\ndata: 3\n\n")
        self.events_before_a_break = 100
        self.breaks_left = 0
        self.instead: bytes | None = None
        self.found: dict[str, bytes] = {}  # what a query answers, as it goes over the wire
        self.query_facts: dict[str, str] = {}

    @property
    def last(self) -> Asked:
        return self.asked[-1]

    # ---- answers: a status and JSON ----

    def answer(self, asked: Asked) -> tuple[int, Any]:
        self.asked.append(asked)
        parts = [unquote(part) for part in asked.path.strip("/").split("/")[1:]]
        match asked.method, parts:
            case "POST", ["query"]:
                return self._query(asked)
            case "GET", ["analytics", name]:
                rows = [{"model": "m", "tokens_in": 5}]
                columns = {"columns": ["model", "tokens_in"], "types": ["VARCHAR", "BIGINT"]}
                return 200, {"name": name, "rows": rows, "truncated": True, **columns}
            case "GET", ["archive"]:
                return 200, {"url": "s3://engine", "waiting_runs": 3, "reachable": False}
            case "POST", ["archive", "flush"]:
                return 200, {"runs": 3, "batches": 1, "bytes": 300, "took_ms": 1.5}
            case "POST", ["archive", "verify"]:
                return 200, {"batches": 1, "runs": 3, "problems": ["one is short"]}
            case "POST", [_, component, "run" | "submit" as verb]:
                return self._start(asked, component, verb)
            case "GET", ["status", run_id]:
                return 200, {"run_id": run_id, "status": self._run(run_id).status}
            case "GET", ["result", run_id]:
                run = self._run(run_id)
                run.move()
                return (200 if run.status in TERMINAL else 202), run.answer()
            case "GET", ["runs"]:
                return 200, {"runs": [_view(run) for run in self.runs.values()], "next_cursor": "c"}
            case "GET", ["runs", run_id]:
                return 200, _view(self._run(run_id))
            case "GET", ["runs", run_id, "why"]:
                return 200, {"run_id": run_id, "why": "It is waiting."}
            case "GET", ["runs", run_id, "journal"]:
                return 200, self._journal(asked)
            case "POST", ["runs", run_id, *what]:
                return self._change(self._run(run_id), what, asked.body)
        raise Problem(404, "unknown_route", asked.path)

    def stream(self, run_id: str, after: int) -> Iterator[bytes]:
        self._run(run_id)
        sent = 0
        for event in self.events:
            offset = int(event[4:5]) if event.startswith(b"id") else -1
            if event.startswith(b"id") and offset <= after:
                continue
            if sent >= self.events_before_a_break and self.breaks_left:
                self.breaks_left -= 1
                raise ConnectionError
            sent += 1
            yield event
        self.runs[run_id].status = "COMPLETED"

    def _start(self, asked: Asked, component: str, verb: str) -> tuple[int, Any]:
        if component == "unknown":
            facts = {"nearest": ["known"]}
            raise Problem(404, "unknown_component", "did you mean known?", facts=facts)
        if component == "picky":
            errors = [{"field": "order.id", "message": "no"}]
            raise Problem(422, "invalid_input", "order.id is missing", errors=errors)
        becomes = asked.body if isinstance(asked.body, dict) else {"output": asked.body}
        run = GatewayRun(f"run-{len(self.runs)}", becomes, asked_left=becomes.get("waits", 0))
        self.runs[run.run_id] = run
        if verb == "submit":
            return 202, {"run_id": run.run_id, "is_new": True}
        run.move()
        return 200, run.answer()

    def _query(self, asked: Asked) -> tuple[int, Any]:
        sql = asked.body["sql"]
        if sql in self.found:
            return 200, self.found[sql]
        raise Problem(400, "invalid_query", "no FROM", errors=[{"field": "sql", "message": "no"}])

    def _journal(self, asked: Asked) -> Any:
        first, limit = int(asked.query["from_offset"]), int(asked.query["limit"])
        offsets = range(first, min(first + min(limit, 2), 5))
        common = {"kind": "STEP_COMPLETED", "timestamp_us": 1}
        entries = [{**common, "offset": offset, "payload": {"n": offset}} for offset in offsets]
        return {"entries": entries, "next_offset": 5}

    def _change(self, run: GatewayRun, what: list[str], body: Any) -> tuple[int, Any]:
        if run.status in TERMINAL:
            raise Problem(409, "run_terminal", "it has ended")
        match what:
            case ["cancel"]:
                run.status = "CANCELLED"
            case ["signals", name]:
                run.signals.append((name, body))
            case ["waits", wait_id, "resolve"]:
                run.answers[wait_id] = body
        return 202, {"run_id": run.run_id, "done": "done"}

    def _run(self, run_id: str) -> GatewayRun:
        if run_id not in self.runs:
            raise Problem(404, "unknown_run", f"there is no run {run_id}")
        return self.runs[run_id]


def _view(run: GatewayRun) -> dict[str, Any]:
    return {
        "run_id": run.run_id,
        "status": run.status,
        "component": "c",
        "kind": "workflow",
        "project_id": "p",
        "deployment_id": "d",
        "completed_ms": 5 if run.status in TERMINAL else 0,
        "waits": [{"wait_id": "1", "kind": "user", "question": "Go?"}],
    }


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    gateway: FakeGateway

    def do_GET(self) -> None:
        self._serve()

    def do_POST(self) -> None:
        self._serve()

    def log_message(self, *args: Any) -> None:
        """Nothing to standard error."""

    def _serve(self) -> None:
        parts = urlsplit(self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        asked = Asked(
            self.command,
            parts.path,
            {name: values[0] for name, values in parse_qs(parts.query).items()},
            {name.lower(): value for name, value in self.headers.items()},
            json.loads(body) if body else None,
        )
        try:
            if self.gateway.instead is not None:
                self._respond(502, "text/html", self.gateway.instead)
            elif parts.path.endswith("/events"):
                self._stream(asked)
            else:
                status, answer = self.gateway.answer(asked)
                if isinstance(answer, bytes):
                    self._respond(status, asked.headers["accept"], answer)
                else:
                    self._respond(status, "application/json", json.dumps(answer).encode())
        except Problem as problem:
            document = json.dumps(problem.document).encode()
            self._respond(problem.status, "application/problem+json", document)

    def _respond(self, status: int, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("content-type", content_type)
        self.send_header("content-length", str(len(body)))
        for name, text in self.gateway.query_facts.items():
            self.send_header(name, text)
        self.end_headers()
        self.wfile.write(body)

    def _stream(self, asked: Asked) -> None:
        self.gateway.asked.append(asked)
        after = int(asked.headers.get("last-event-id", -1))
        events = self.gateway.stream(asked.path.split("/")[-2], after)
        first = next(events, b"")
        if after >= 3:
            self._respond(204, "text/event-stream", b"")
            return
        self.send_response(200)
        self.send_header("content-type", "text/event-stream")
        self.send_header("connection", "close")
        self.end_headers()
        self.close_connection = True
        try:
            for event in itertools.chain([first], events):
                self.wfile.write(event)
        except ConnectionError:
            return


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *args: Any) -> None:
        """A client that did not wait for its answer."""

    def server_bind(self) -> None:
        socketserver.TCPServer.server_bind(self)  # without looking up the host's name


@contextmanager
def serving() -> Iterator[tuple[FakeGateway, str]]:
    gateway = FakeGateway()
    handler = type("Handler", (_Handler,), {"gateway": gateway})
    server = _Server(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield gateway, f"http://127.0.0.1:{server.server_address[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
