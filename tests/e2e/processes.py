"""Starts, kills and starts again the processes of one engine, always on the same addresses."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 60.0


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Processes:
    def __init__(self, folder: Path) -> None:
        self.data_dir = folder / "data"
        self.marks = folder / "marks"
        self.marks.touch()
        self.http, self.grpc = free_address(), free_address()
        self.client = httpx.Client(base_url=f"http://{self.http}", timeout=PATIENCE_S)
        self._log = (folder / "log").open("w")
        self._runtime: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    # ---- processes ----

    def start_runtime(self) -> None:
        assert self._runtime is None
        self._runtime = self._start(
            "serve", "--data-dir", str(self.data_dir), "--http", self.http, "--grpc", self.grpc
        )
        self.wait_until(lambda: self.get("/readyz") is not None, "the runtime is ready")

    def start_worker(self) -> subprocess.Popen[bytes]:
        worker = self._start("worker", "tests.e2e.components", "--endpoint", f"http://{self.grpc}")
        self._workers.append(worker)
        return worker

    def kill_runtime(self) -> None:
        assert self._runtime is not None
        self._runtime.kill()
        self._runtime.wait()
        self._runtime = None

    def kill_worker(self, worker: subprocess.Popen[bytes]) -> None:
        worker.kill()
        worker.wait()
        self._workers.remove(worker)

    def stop_everything(self) -> None:
        for process in [*self._workers, *([self._runtime] if self._runtime else [])]:
            process.send_signal(signal.SIGCONT)
            process.kill()
            process.wait()
        self.client.close()
        self._log.close()

    def _start(self, *arguments: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "engine.cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, "E2E_MARKS": str(self.marks)},
            stdout=self._log,
            stderr=self._log,
        )

    # ---- asking ----

    def get(self, path: str) -> Any:
        """The JSON, or None while nobody answers."""
        try:
            answer = self.client.get(path)
        except httpx.TransportError:
            return None
        return answer.json() if answer.status_code < 400 else None

    def submit(self, component: str, value: object, key: str) -> str:
        """Start a run; the key makes it the same run however often this has to be tried."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.client.post(
                    f"/v1/workflows/{component}/submit",
                    json=value,
                    headers={"Idempotency-Key": key},
                )
                if answer.status_code in (200, 202):
                    return str(answer.json()["run_id"])
                said = answer.text
            except httpx.TransportError as error:
                said = repr(error)
            assert time.monotonic() < deadline, said
            time.sleep(0.05)

    def output_of(self, run_id: str) -> Any:
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            found = self.get(f"/v1/result/{run_id}?wait_s=2")
            if found is not None and found.get("status") == "COMPLETED":
                return found["output"]
            assert found is None or found.get("status") not in ("FAILED", "CANCELLED"), found
            time.sleep(0.01)
        raise AssertionError(f"{run_id} has no result; why: {self.get(f'/v1/runs/{run_id}/why')}")

    def journal_of(self, run_id: str) -> list[dict[str, Any]]:
        found = self.get(f"/v1/runs/{run_id}/journal?limit=1000")
        assert found is not None
        entries: list[dict[str, Any]] = found["entries"]
        return entries

    def times_done(self) -> Counter[str]:
        """How often each step was really executed."""
        return Counter(self.marks.read_text().splitlines())

    def wait_until(self, holds: Any, what: str) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            assert time.monotonic() < deadline, f"not in time: {what}\n{self.said()}"
            time.sleep(0.02)

    def said(self) -> str:
        self._log.flush()
        return Path(self._log.name).read_text()[-4_000:]


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    started = Processes(folder)
    try:
        yield started
    finally:
        started.stop_everything()
