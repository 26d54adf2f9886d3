"""What `engine doctor` says of an archive: directories that can and cannot be used, and stores that
are there, down, without the bucket, or do not let us in."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from engine.archive.store.opening import open_store
from engine.cli.checking.archive_checks import check_archive, check_archiving
from engine.cli.checking.check import Check
from engine.config.archive import ArchiveSettings
from tests.cli.s3_server import s3_server
from tests.cli.served import serving
from tests.gateway.conftest import REFUSED_KEY

SECRET = "OpenSesame"


def check(settings: ArchiveSettings, data_dir: Path, verdict: str) -> Check:
    found = check_archive(settings, data_dir)
    assert found.name == "archive"
    assert found.verdict == verdict, found
    assert found.advice or verdict == "ok"
    assert SECRET not in found.found + found.advice
    return found


# ---- a directory ----


def test_the_directory_in_the_data_directory(tmp_path: Path) -> None:
    found = check(ArchiveSettings(), tmp_path / "data", "ok")
    assert found.found == f"{tmp_path}/data/archive will be made"
    assert not (tmp_path / "data").exists(), "it only looks"


def test_a_directory_that_is_there(tmp_path: Path) -> None:
    assert check(ArchiveSettings(url=str(tmp_path)), tmp_path, "ok").found == str(tmp_path)


def test_a_file_in_the_place_of_the_directory(tmp_path: Path) -> None:
    (tmp_path / "archive").write_text("")
    found = check(ArchiveSettings(), tmp_path, "fail")
    assert found.found == f"{tmp_path}/archive is not a directory"
    assert "archive.url" in found.advice


def test_a_directory_that_may_not_be_written_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: not mode & os.W_OK)
    assert "may not be written to" in check(ArchiveSettings(), tmp_path, "fail").found


def test_an_archive_that_is_switched_off(tmp_path: Path) -> None:
    assert "switched off" in check(ArchiveSettings(enabled=False), tmp_path, "warn").found


def test_a_url_of_another_sort(tmp_path: Path) -> None:
    found = check(ArchiveSettings(url="s3://"), tmp_path, "fail")
    assert "names no bucket" in found.found


# ---- a bucket ----


@pytest.fixture(scope="module")
def server() -> Iterator[str]:
    with s3_server() as url:
        yield url


def in_bucket(endpoint: str, bucket: str, **more: Any) -> ArchiveSettings:
    keys = {"access_key": "key", "secret_key": SECRET}
    return ArchiveSettings(url=f"s3://{bucket}", endpoint=endpoint, **keys, **more)


def test_a_bucket_that_is_there(tmp_path: Path, server: str) -> None:
    store = open_store(in_bucket(server, "there", create_bucket=True), tmp_path)
    store.ensure_ready()
    store.close()
    found = check(in_bucket(server, "there"), tmp_path, "ok")
    assert found.found == f"s3://there/engine at {server}: the bucket is there and lets us in"


def test_a_bucket_that_is_not_there(tmp_path: Path, server: str) -> None:
    found = check(in_bucket(server, "nowhere"), tmp_path, "fail")
    assert "there is no bucket 'nowhere'" in found.found
    assert "archive.create_bucket" in found.found
    for _ in range(2):  # the second one shows that the first has not made it
        found = check(in_bucket(server, "nowhere", create_bucket=True), tmp_path, "ok")
        assert found.found.endswith("the bucket is not there and will be made")


def test_a_store_that_is_down(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        endpoint = f"http://127.0.0.1:{listener.getsockname()[1]}"
    found = check(in_bucket(endpoint, "there"), tmp_path, "fail")
    assert "does not answer" in found.found
    assert "refused" in found.found
    assert found.advice.startswith("start the store")


def test_keys_that_are_wrong(tmp_path: Path) -> None:
    with forbidding() as endpoint:
        found = check(in_bucket(endpoint, "theirs"), tmp_path, "fail")
    assert "archive.access_key" in found.found
    assert found.advice == "change that; the runtime can run meanwhile; its ended runs wait"


@contextmanager
def forbidding() -> Iterator[str]:
    """A store that answers everybody as S3 answers somebody with wrong keys."""

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            self.send_response(403)
            self.send_header("content-length", "0")
            self.end_headers()

        def do_GET(self) -> None:
            self.do_HEAD()

        def log_message(self, *args: Any) -> None:
            """Nothing to standard error."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


# ---- the runtime that is up ----


def archiving(url: str, api_key: str = "") -> Check:
    with httpx.Client(timeout=5.0, trust_env=False) as client:
        return check_archiving(client, url, api_key)


def test_how_a_runtime_archives() -> None:
    with serving() as served:
        assert archiving(served.url) == Check("archiving", "ok", "0 runs archived, none waits")
        served.start_three()
        found = archiving(served.url)
        assert (found.verdict, found.found) == (
            "ok",
            "0 runs archived, 3 wait, the oldest for 1 min 30 s",
        )
        served.handle.tiers.is_store_down = True
        found = archiving(served.url)
        assert (found.verdict, found.found.rpartition("; ")[2]) == ("warn", "connection refused")
        assert "status --watch" in found.advice


def test_a_runtime_that_does_not_tell() -> None:
    with serving() as served:
        refused = archiving(served.url, REFUSED_KEY)
    assert (refused.verdict, refused.found) == ("warn", "the runtime does not tell: 401")
    gone = archiving(served.url)
    assert (gone.verdict, gone.advice) == ("warn", "look at its log")
