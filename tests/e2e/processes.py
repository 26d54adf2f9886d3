"""Starts, kills and starts again the processes of one engine, always on the same addresses."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import httpx

ROOT: Final = Path(__file__).resolve().parents[2]
PATIENCE_S: Final = 60.0
NOTHING_ELSE: Final[Mapping[str, str]] = {}


def free_address() -> str:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{probe.getsockname()[1]}"


class Processes:
    def __init__(self, folder: Path, environment: Mapping[str, str] = NOTHING_ELSE) -> None:
        self._environment = dict(environment)
        self.data_dir = folder / "data"
        self.marks = folder / "marks"
        self.marks.touch()
        self.http, self.grpc = free_address(), free_address()
        self.client = httpx.Client(base_url=f"http://{self.http}", timeout=PATIENCE_S)
        self._log = (folder / "log").open("w")
        self._runtime: subprocess.Popen[bytes] | None = None
        self._workers: list[subprocess.Popen[bytes]] = []

    # ---- processes ----

    def start_runtime(self, settings: Path | None = None) -> None:
        assert self._runtime is None
        where = ["--data-dir", str(self.data_dir), "--http", self.http, "--grpc", self.grpc]
        more = [] if settings is None else ["--config", str(settings)]
        self._runtime = self._start("serve", *where, *more)
        self.wait_until(lambda: self.get("/readyz") is not None, "the runtime is ready")

    def start_worker(
        self, module: str = "tests.e2e.components", *options: str, endpoint: str = ""
    ) -> subprocess.Popen[bytes]:
        endpoint = endpoint or f"http://{self.grpc}"
        worker = self._start("worker", module, "--endpoint", endpoint, *options)
        self._workers.append(worker)
        return worker

    def start(
        self,
        *,
        workers: int,
        module: str = "tests.e2e.components",
        settings: Path | None = None,
    ) -> None:
        """The runtime and workers that have registered."""
        self.start_runtime(settings)
        for _ in range(workers):
            self.start_worker(module)
        self.wait_until(lambda: self.workers_connected() == workers, "the workers are there")

    def workers_connected(self) -> int:
        components = (self.get("/v1/components") or {}).get("components", ())
        return max((component["workers"] for component in components), default=0)

    def revive_workers(self, module: str = "tests.e2e.components") -> int:
        """Start a worker for each one that has ended by itself; how many."""
        dead = [worker for worker in self._workers if worker.poll() is not None]
        for worker in dead:
            self._workers.remove(worker)
            self.start_worker(module)
        return len(dead)

    @property
    def runtime(self) -> subprocess.Popen[bytes]:
        assert self._runtime is not None
        return self._runtime

    def start_dev(self, module: str, *options: str) -> subprocess.Popen[bytes]:
        """Runtime and worker in the hands of `engine dev`."""
        where = ["--data-dir", str(self.data_dir), "--http", self.http, "--grpc", self.grpc]
        dev = self._start("dev", module, *where, *options)
        self._workers.append(dev)
        return dev

    def kill_runtime(self) -> None:
        assert self._runtime is not None
        self._runtime.kill()
        self._runtime.wait()
        self._runtime = None

    def stop_runtime(self) -> None:
        """In order, as a deploy does."""
        assert self._runtime is not None
        self._runtime.terminate()
        assert self._runtime.wait(PATIENCE_S) == 0, self.said()
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

    def start_program(self, module: str, *arguments: str) -> None:
        """A worker that is a program of its own."""
        self._workers.append(self._start(*arguments, program=module))

    def run(self, *arguments: str) -> str:
        """A command of `engine` to its end; what it printed."""
        ended = subprocess.run(
            [sys.executable, "-m", "engine.cli.main", *arguments],
            cwd=ROOT,
            env={**os.environ, **self._environment, "COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=PATIENCE_S,
            check=False,
        )
        return ended.stdout + ended.stderr

    def _start(self, *arguments: str, program: str = "engine.cli.main") -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", program, *arguments],
            cwd=ROOT,
            env={**os.environ, "E2E_MARKS": str(self.marks), **self._environment},
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

    def submit(self, component: str, value: object, key: str, *, kind: str = "workflows") -> str:
        """Start a run; the key makes it the same run however often this has to be tried."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            try:
                answer = self.client.post(
                    f"/v1/{kind}/{component}/submit",
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
        entries: list[dict[str, Any]] = []
        while True:
            found = self.get(f"/v1/runs/{run_id}/journal?limit=1000&from_offset={len(entries)}")
            assert found is not None
            entries += found["entries"]
            if len(found["entries"]) < 1000:
                return entries

    def submit_many(self, component: str, inputs: Sequence[object]) -> list[str]:
        """Start many runs with one request."""
        lines = [json.dumps({"component": component, "input": value}) for value in inputs]
        answer = self.client.post("/v1/runs:batch", content="\n".join(lines))
        assert answer.status_code == 200, answer.text
        return [json.loads(line)["run_id"] for line in answer.text.splitlines()]

    def signal(self, run_id: str, name: str, value: object, signal_id: str) -> None:
        answer = self.client.post(
            f"/v1/runs/{run_id}/signals/{name}",
            json=value,
            headers={"Idempotency-Key": signal_id},
        )
        assert answer.status_code < 300, answer.text

    def status_of(self, run_id: str) -> str:
        return str((self.get(f"/v1/runs/{run_id}") or {}).get("status", ""))

    def statuses(self, component: str) -> Counter[str]:
        """Of all runs of a component, how many are in which status."""
        return Counter(run["status"] for run in self._listed(f"component={component}"))

    def runs_in(self, component: str, status: str) -> list[str]:
        listed = self._listed(f"component={component}&status={status}")
        return [run["run_id"] for run in listed]

    def _listed(self, chosen: str) -> Iterator[dict[str, Any]]:
        cursor = ""
        while True:
            page = self.get(f"/v1/runs?{chosen}&limit=1000{cursor}")
            assert page is not None
            yield from page["runs"]
            if not page.get("next_cursor"):
                return
            cursor = f"&cursor={page['next_cursor']}"

    def wait_until(
        self,
        holds: Callable[[], object],
        what: str | Callable[[], str],
        patience_s: float = PATIENCE_S,
    ) -> None:
        deadline = time.monotonic() + patience_s
        while not holds():
            if time.monotonic() > deadline:
                text = what if isinstance(what, str) else what()
                raise AssertionError(f"not in time: {text}\n{self.said()}")
            assert self._runtime is None or self._runtime.poll() is None, self.said()
            time.sleep(0.02)

    def wait_until_marked(self, count: int) -> None:
        """Until steps have left so many marks."""
        self.wait_until(lambda: len(self.marks.read_bytes().splitlines()) >= count, "steps began")

    def has_said(self, text: str) -> bool:
        return text in self._logged()

    def wait_until_said(self, text: str, *, times: int = 1) -> None:
        """Until a text was logged that often, by whichever process."""
        self.wait_until(lambda: self._logged().count(text) >= times, f"{text!r} was logged")

    def said(self) -> str:
        return self._logged()[-4_000:]

    def _logged(self) -> str:
        return Path(self._log.name).read_text()


@contextmanager
def processes(folder: Path, environment: Mapping[str, str] = NOTHING_ELSE) -> Iterator[Processes]:
    started = Processes(folder, environment)
    try:
        yield started
    finally:
        started.stop_everything()
