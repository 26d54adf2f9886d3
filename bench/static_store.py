"""A directory as an S3 endpoint for reading: GET with ranges, HEAD, lists, and a log of requests.

A process of its own, so that whoever measures does not serve. It checks no signature and cannot be
written to; the first path segment is the bucket. `GET /_log` answers with the requests since the
last time; `PUT /_fault?status=503` answers every object so until `status=0`.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import ssl
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, urlsplit


class _Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 1_024  # DuckDB opens many connections at once
    root: Path
    fault = 0

    def __init__(self, root: Path) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.root = root
        self.asked: list[str] = []


class _Handler(http.server.BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    wbufsize = 1 << 16
    disable_nagle_algorithm = True

    def log_message(self, format: str, *arguments: object) -> None:
        """Nothing: the log is asked for."""

    def do_HEAD(self) -> None:
        self._object(with_body=False)

    def do_GET(self) -> None:
        if urlsplit(self.path).path == "/_log":
            asked, self.server.asked = self.server.asked, []
            self._answer(200, json.dumps(asked).encode())
        elif "list-type=2" in self.path:
            self._list()
        else:
            self._object(with_body=True)

    def do_PUT(self) -> None:
        self.server.fault = int(parse_qs(urlsplit(self.path).query)["status"][0])
        self._answer(200, b"")

    def _object(self, *, with_body: bool) -> None:
        path = unquote(urlsplit(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        file = self.server.root / path.lstrip("/")
        if self.server.fault or not file.is_file():
            self._answer(self.server.fault or 404, b"")
            return
        size = file.stat().st_size
        first, last = self._range(size)
        is_part = "Range" in self.headers
        self.send_response(206 if is_part else 200)
        self.send_header("Content-Length", str(last - first + 1))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("ETag", f'"{size}-{file.stat().st_mtime_ns}"')
        self.send_header("Last-Modified", "Thu, 01 Jan 2026 00:00:00 GMT")
        if is_part:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        self.end_headers()
        if with_body:
            with file.open("rb") as opened:
                opened.seek(first)
                self.wfile.write(opened.read(last - first + 1))
        self.wfile.flush()

    def _list(self) -> None:
        """All at once: nobody keeps more here than one page."""
        parts = urlsplit(self.path)
        prefix = parse_qs(parts.query)["prefix"][0]
        bucket = self.server.root / unquote(parts.path).strip("/")
        self.server.asked.append(f"LIST {prefix}")
        keys = {str(file.relative_to(bucket)): file for file in bucket.rglob("*.parquet")}
        entries = "".join(
            f"<Contents><Key>{quote(key)}</Key><Size>{keys[key].stat().st_size}</Size>"
            "<LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>"
            for key in sorted(keys)
            if key.startswith(prefix)
        )
        said = (
            '<ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">'
            f"<Name>{bucket.name}</Name><IsTruncated>false</IsTruncated>"
            f"<EncodingType>url</EncodingType>{entries}</ListBucketResult>"
        )
        self._answer(200, said.encode())

    def _range(self, size: int) -> tuple[int, int]:
        if "Range" not in self.headers:
            return 0, size - 1
        first, last = self.headers["Range"].removeprefix("bytes=").split("-")
        if not first:
            return max(0, size - int(last)), size - 1
        return int(first), min(int(last), size - 1) if last else size - 1

    def _answer(self, status: int, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        self.wfile.flush()


class StaticStore:
    """The running process, from outside."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint

    def take_requests(self) -> list[str]:
        """What was asked since the last time, as "GET /bucket/key"."""
        with urllib.request.urlopen(f"http://{self.endpoint}/_log") as answer:
            return list(json.load(answer))

    def answer_all_with(self, status: int) -> None:
        """An HTTP status for every object; 0: as usual again."""
        request = urllib.request.Request(
            f"http://{self.endpoint}/_fault?status={status}", method="PUT", data=b""
        )
        urllib.request.urlopen(request).close()


@contextlib.contextmanager
def static_store(root: Path, *tls: Path) -> Iterator[StaticStore]:
    """`tls` is nothing, or a certificate and its key: then objects are served over TLS alone, and
    the log cannot be asked for."""
    command = [sys.executable, "-m", "bench.static_store", str(root), *map(str, tls)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield StaticStore(process.stdout.readline().strip())
        finally:
            process.kill()


if __name__ == "__main__":
    _server = _Server(Path(sys.argv[1]))
    if sys.argv[2:]:
        _context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        _context.load_cert_chain(*sys.argv[2:])
        _server.socket = _context.wrap_socket(_server.socket, server_side=True)
    print(f"127.0.0.1:{_server.server_port}", flush=True)
    _server.serve_forever()
