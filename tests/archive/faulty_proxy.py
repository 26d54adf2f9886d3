"""A real HTTP server between the archive and its store that does to requests what networks and
stores do: loses them, delays them, answers 500, swallows objects or cuts them short.
"""

from __future__ import annotations

import http.client
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

# What happens to a request: gets its method and path, says which fault it meets ("" for none).
Choice = Callable[[str, str], str]

WELL = ""
DOWN = "down"  # the connection is closed without an answer
ERROR = "error"  # 500
SWALLOWED = "swallowed"  # 200, and nothing was stored
CUT = "cut"  # 200, and half of it was stored
LATE = "late"  # the answer comes when it is let go


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: object, client_address: object) -> None:
        """A client that has gone away is what the tests are about."""
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class FaultyProxy:
    def __init__(self, upstream: str) -> None:
        self.upstream = urlsplit(upstream).netloc
        self.choice: Choice = lambda method, path: WELL
        self.requests: list[tuple[str, str]] = []
        self.held = threading.Event()  # a late answer is being waited for
        self.let_go = threading.Event()
        self._server = _Server(("127.0.0.1", 0), _handler(self))
        self._server.daemon_threads = True
        self.endpoint = f"http://127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))

    def be(self, fault: str) -> None:
        self.choice = lambda method, path: fault

    def when(self, method: str, text: str, fault: str, *, times: int = 1_000_000) -> None:
        """This fault for requests of a method whose path has a text in it, so often."""
        left = [times]

        def choice(asked: str, path: str) -> str:
            if asked != method or text not in path or not left[0]:
                return WELL
            left[0] -= 1
            return fault

        self.choice = choice

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self.let_go.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _handler(proxy: FaultyProxy) -> type[BaseHTTPRequestHandler]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, format: str, *arguments: object) -> None:
            pass

        def _serve(self) -> None:
            body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
            proxy.requests.append((self.command, self.path))
            fault = proxy.choice(self.command, self.path)
            if fault == DOWN:
                self.close_connection = True
                return
            if fault == ERROR:
                self._answer(500, [("Content-Type", "application/xml")], _ERROR_BODY)
            elif fault == SWALLOWED:
                self._answer(200, [("ETag", '"0123456789abcdef0123456789abcdef"')], b"")
            else:
                if fault == LATE:
                    proxy.held.set()
                    proxy.let_go.wait(20)
                self._forward(body[: len(body) // 2] if fault == CUT else body)

        def _forward(self, body: bytes) -> None:
            upstream = http.client.HTTPConnection(proxy.upstream, timeout=20)
            headers = dict(self.headers.items())
            if "Content-Length" in headers:
                headers["Content-Length"] = str(len(body))
            headers.pop("Content-Md5", None)
            headers.pop("Content-MD5", None)
            try:
                upstream.request(self.command, self.path, body, headers)
                answer = upstream.getresponse()
                data = answer.read()
                self._answer(answer.status, answer.getheaders(), data)
            finally:
                upstream.close()

        def _answer(self, status: int, headers: list[tuple[str, str]], body: bytes) -> None:
            self.send_response(status)
            for name, value in headers:
                if name.lower() not in ("transfer-encoding", "connection", "content-length"):
                    self.send_header(name, value)
            lengths = [value for name, value in headers if name.lower() == "content-length"]
            self.send_header("Content-Length", lengths[0] if lengths else str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = _serve  # noqa: N815

    return Handler


_ERROR_BODY = (
    b'<?xml version="1.0"?><Error><Code>InternalError</Code><Message>We are sorry</Message></Error>'
)


@contextmanager
def faulty_proxy(upstream: str) -> Iterator[FaultyProxy]:
    proxy = FaultyProxy(upstream)
    proxy.start()
    try:
        yield proxy
    finally:
        proxy.stop()
