"""The promise on one screen: a workflow whose runtime is killed in the middle, and that ends as if
nothing had been.

    make demo        (or: python -m examples.demo)

Starts a runtime and a worker for `examples/shop.py`, orders something, kills the runtime with
SIGKILL after the first step, starts it again, and shows how the order went on. In the end some more
orders come in, and SQL is asked about all of them.
"""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import httpx
from rich.console import Console

PATIENCE_S = 30.0
MORE_ORDERS = (("Oslo", 1_200), ("Atlantis", 99_900), ("Oslo", 450))
SQL = """
SELECT output ->> 'status' AS receipt, count(*) AS orders,
       sum((input ->> 'cents')::INT) / 100 AS worth, max(duration_ms) AS slowest_ms
FROM runs WHERE component = 'checkout' GROUP BY receipt ORDER BY receipt DESC
"""
ORDER = {"id": "A-1", "city": "Oslo", "items": {"teapot": 1, "cup": 4}, "cents": 8_900}

console = Console(highlight=False, soft_wrap=True)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class Demo:
    def __init__(self, data_dir: Path) -> None:
        self.data_dir = data_dir
        self.http = f"127.0.0.1:{free_port()}"
        self.grpc = f"127.0.0.1:{free_port()}"
        self.url = f"http://{self.http}"
        self.client = httpx.Client(base_url=self.url, timeout=PATIENCE_S)
        self.log = (data_dir.parent / "log").open("w")

    @contextmanager
    def process(self, *arguments: str) -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "engine.cli.main", *arguments]
        with subprocess.Popen(command, stderr=self.log, stdout=self.log) as started:
            try:
                yield started
            finally:
                if started.poll() is None:
                    started.terminate()

    def runtime(self) -> tuple[str, ...]:
        where = ("--data-dir", str(self.data_dir), "--http", self.http, "--grpc", self.grpc)
        return ("serve", *where)

    def worker(self) -> tuple[str, ...]:
        return ("worker", "examples.shop", "--endpoint", f"http://{self.grpc}")

    def query(self, sql: str) -> None:
        """As a user would ask it; prints the table."""
        command = [sys.executable, "-m", "engine.cli.main", "query", sql, "--url", self.url]
        subprocess.run(command, check=True)

    def wait_for(self, path: str, found: str) -> str:
        """Ask until the answer has what is looked for."""
        deadline = time.monotonic() + PATIENCE_S
        while time.monotonic() < deadline:
            try:
                answer = self.client.get(path).text
            except httpx.TransportError:
                answer = ""
            if found in answer:
                return answer
            time.sleep(0.01)
        sys.exit(f"{path} did not say {found!r} in time; the log is:\n{self.read_log()}")

    def read_log(self) -> str:
        self.log.flush()
        return Path(self.log.name).read_text()


def show_events(demo: Demo, run_id: str) -> None:
    """The run's history as its event stream tells it, from the first event to the last."""
    with demo.client.stream("GET", f"/v1/runs/{run_id}/events") as answer:
        name = ""
        for line in answer.iter_lines():
            key, _, value = line.partition(": ")
            if key == "event":
                name = value
            elif key == "data":
                data = json.loads(value)
                what = data.get("name") or data.get("worker_id") or ""
                said = data.get("output") or data.get("error", {}).get("message", "")
                if isinstance(said, dict):
                    said = said.get("status", "")
                console.print(f"    {data.get('offset'):>2}  {name:26} {what:16} {said}")


def order_more(demo: Demo) -> None:
    """Some more orders, until each has its receipt."""
    orders = [
        {"id": f"B-{number}", "city": city, "items": {"cup": number}, "cents": cents}
        for number, (city, cents) in enumerate(MORE_ORDERS, start=1)
    ]
    answer = demo.client.post("/v1/workflows/checkout/batch", json={"inputs": orders})
    for run in answer.json()["runs"]:
        demo.wait_for(f"/v1/result/{run['run_id']}?wait_s=1", "COMPLETED")


def main() -> None:
    with tempfile.TemporaryDirectory(prefix="engine-demo-") as scratch, ExitStack() as stack:
        demo = Demo(Path(scratch) / "data")
        console.print("[bold]1. A runtime, and a worker that serves examples/shop.py")
        runtime = stack.enter_context(demo.process(*demo.runtime()))
        demo.wait_for("/readyz", "")
        stack.enter_context(demo.process(*demo.worker()))
        demo.wait_for("/v1/components", "checkout")
        console.print(f"   clients at {demo.url}, workers at http://{demo.grpc}")

        console.print("[bold]2. An order comes in over HTTP")
        order = demo.client.post("/v1/workflows/checkout/submit", json=ORDER).json()
        run_id = order["run_id"]
        console.print(f"   run {run_id}")
        demo.wait_for(f"/v1/runs/{run_id}/journal", '"reserve"')

        console.print("[bold]3. The goods are reserved. The runtime is killed with SIGKILL")
        runtime.send_signal(signal.SIGKILL)
        runtime.wait()
        console.print("[bold]4. The runtime is started again on the same data")
        stack.enter_context(demo.process(*demo.runtime()))
        result = demo.wait_for(f"/v1/result/{run_id}?wait_s=1", "COMPLETED")
        receipt = json.loads(result)["output"]
        console.print(f"   {receipt['status']}: {receipt['parcel']}")

        console.print("[bold]5. What its journal says: each step once, the reservation not again")
        show_events(demo, run_id)
        console.print(f"[bold]6. {len(MORE_ORDERS)} more orders, and SQL over all of them")
        order_more(demo)
        console.print(f"   engine query [dim]{' '.join(SQL.split())!r}")
        demo.query(SQL)
        console.print("[bold]7. Your turn")
        console.print("   engine dev examples.shop          the same, on your own data")
        console.print("   python -m examples.shop           in another terminal: two orders")
        console.print("   engine runs ls                    what ran, and how it ended")
        console.print('   engine query "FROM steps"         everything, as a table')
        console.print("   engine journal verify             that nothing of it is damaged")


if __name__ == "__main__":
    main()
