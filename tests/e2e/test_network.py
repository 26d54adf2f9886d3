"""Connections that are half open, and frames that come twice, late or in the wrong order, against
a runtime that is a process of its own."""

from __future__ import annotations

import signal
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import engine
from engine.base.ids import parse_run_id
from engine.ext import frames
from engine.model.payloads import RunCompleted, StepCompleted
from engine.model.runs import ComponentKind
from engine.model.worker_frames import (
    Component,
    Refused,
    Register,
    Registered,
    Revoke,
    RevokeReason,
)
from engine.sdk.worker.transport import Connection, parse_endpoint
from engine.wire import worker as wire
from engine.wire.journal import encode, kind_of
from tests.e2e.marks import Marks
from tests.e2e.processes import Processes, processes
from tests.e2e.proxy import proxy_to
from tests.sdk.on_asyncio import on_asyncio

SHORT_LEASE: Final = {
    "ENGINE_COORDINATOR__HEARTBEAT_MS": "200",
    "ENGINE_COORDINATOR__LEASE_MS": "800",
}
HASTY: Final = "tests.e2e.hasty"


# ---- half open ----


def test_both_sides_notice_a_connection_that_is_half_open(tmp_path: Path) -> None:
    """The runtime gives the runs to another worker, the worker connects anew; what it still does
    for the runs it had changes nothing."""
    with processes(tmp_path, SHORT_LEASE) as running:
        running.start_runtime()
        with proxy_to(running.grpc) as proxy:
            running.start_worker(HASTY, endpoint=proxy.address)
            running.wait_until(running.workers_connected, "a worker is there")
            runs = [running.submit("tally", 400, f"run-{number}") for number in range(4)]
            running.wait_until(lambda: len(Marks(running.marks)) > 20, "steps are being done")
            proxy.go_dead()
            running.wait_until(lambda: not running.workers_connected(), "it was given up")
            held = proxy.connections
            running.start_worker(HASTY)
            assert [running.output_of(run) for run in runs] == [sum(range(400))] * 4
            running.wait_until(lambda: proxy.connections > held, "the worker has noticed too")
            proxy.let_new_ones_through()
            running.wait_until(lambda: running.workers_connected() == 2, "it is back")
            assert running.output_of(running.submit("tally", 50, "late")) == sum(range(50))
            for run in runs:
                kinds = [entry["kind"] for entry in running.journal_of(run)]
                assert kinds.count("STEP_COMPLETED") == 400
                assert kinds[-1] == "RUN_COMPLETED"


def test_a_runtime_that_stands_still_goes_on(tmp_path: Path) -> None:
    """SIGSTOP: its workers give the connection up and come back; it does not take its own
    standstill for theirs."""
    with processes(tmp_path, SHORT_LEASE) as running:
        running.start(workers=2, module=HASTY)
        runs = [running.submit("tally", 200, f"run-{number}") for number in range(4)]
        naps = [running.submit("nap", 0.5, f"nap-{number}") for number in range(4)]
        running.wait_until(lambda: len(Marks(running.marks)) > 20, "steps are being done")
        running.runtime.send_signal(signal.SIGSTOP)
        running.wait_until_said("cannot be reached", times=2)
        running.runtime.send_signal(signal.SIGCONT)
        assert [running.output_of(run) for run in runs] == [sum(range(200))] * 4
        assert [running.output_of(run) for run in naps] == [0.5] * 4
        assert Marks(running.marks).done_again(running) == []


# ---- frames ----


class Wire:
    """A worker that says what the test wants it to say."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._came: list[Any] = []

    async def send(self, *of_worker: bytes) -> None:
        await self._connection.send(frames.pack_frames(list(of_worker)))

    async def register(self, worker_id: str) -> None:
        register = Register(
            deployment_id="default",
            service_name="wire",
            worker_id=worker_id,
            capacity=10,
            sdk_version=engine.__version__,
            components=(Component(name="by_hand", kind=ComponentKind.WORKFLOW),),
        )
        await self.send(wire.encode_worker_frame(register))
        await self.next(Registered)

    async def next(self, wanted: str | type) -> Any:
        """The next frame of a sort; what came before it stays for later."""
        while True:
            for at, frame in enumerate(self._came):
                if _sort_of(frame) == wanted:
                    return self._came.pop(at)
            message = await self._connection.receive()
            assert message is not None, f"the stream has ended before {wanted}"
            for scanned in frames.scan_engine_frames(message):
                is_cold = scanned[0] == "cold"
                self._came.append(wire.decode_engine_frame(*scanned[1:]) if is_cold else scanned)


def _sort_of(frame: Any) -> str | type:
    return frame[0] if isinstance(frame, tuple) else type(frame)


def report(run: bytes, epoch: int, sequence: int, *payloads: Any) -> bytes:
    entries = [(int(kind_of(payload)), encode(payload)) for payload in payloads]
    return frames.build_report(run, epoch, sequence, entries)


def step(position: int) -> StepCompleted:
    return StepCompleted(position=position, name="step", output=b"%d" % position)


DONE: Final = RunCompleted(output=b'"done"')


def by_hand(folder: Path, play: Callable[[Processes, Wire], Awaitable[None]]) -> None:
    """`play` with a connected worker."""
    with processes(folder) as running:
        running.start_runtime()

        async def test() -> None:
            async with Connection(parse_endpoint(f"http://{running.grpc}")) as connection:
                worker = Wire(connection)
                await worker.register("worker-1")
                await play(running, worker)

        on_asyncio(test)


def test_a_frame_that_comes_twice_counts_once(tmp_path: Path) -> None:
    async def play(running: Processes, worker: Wire) -> None:
        run = running.submit("by_hand", None, "run")
        _, key, epoch, *_ = await worker.next("dispatch")
        first = report(key, epoch, 1, step(1))
        await worker.send(first, first)
        await worker.send(first)
        assert [(await worker.next("ack"))[3] for _ in range(3)] == [1, 1, 1]
        await worker.send(report(key, epoch, 2, DONE), report(key, epoch, 2, DONE))
        assert [(await worker.next("ack"))[3] for _ in range(2)] == [2, 2]
        await worker.send(report(key, epoch, 2, DONE), report(key, epoch, 3, DONE))
        assert (await worker.next("ack"))[3] == 2
        # With the run's end the lease has ended, so anything new is a frame of an earlier lease.
        assert (await worker.next(Revoke)).lease_epoch == epoch
        assert running.output_of(run) == "done"
        assert [entry["kind"] for entry in running.journal_of(run)] == [
            "RUN_ACCEPTED",
            "RUN_STARTED",
            "STEP_COMPLETED",
            "RUN_COMPLETED",
        ]

    by_hand(tmp_path, play)


def test_frames_in_the_wrong_order_are_not_written(tmp_path: Path) -> None:
    """A report that is ahead of its turn is not written, and neither is the one that then comes
    late: the stream is at fault, so the run is given out anew, which is not an attempt. Another
    run of the worker does not suffer."""

    async def play(running: Processes, worker: Wire) -> None:
        run, other = (running.submit("by_hand", None, name) for name in ("run", "other"))
        dispatches = [await worker.next("dispatch") for _ in range(2)]
        epochs = {frame[1]: frame[2] for frame in dispatches}
        key, other_key = parse_run_id(run), parse_run_id(other)
        await worker.send(
            report(key, epochs[key], 2, step(2)),
            report(key, epochs[key], 1, step(1)),
            report(other_key, epochs[other_key], 1, DONE),
        )
        for reason in (RevokeReason.EXPIRED, RevokeReason.FENCED):
            revoked = await worker.next(Revoke)
            assert (revoked.run_id, revoked.lease_epoch) == (key, epochs[key])
            assert revoked.reason == reason
        _, again, epoch, *_ = await worker.next("dispatch")
        assert (again, epoch) == (key, epochs[key] + 1)
        await worker.send(report(key, epoch, 1, DONE))
        assert [running.output_of(name) for name in (run, other)] == ["done", "done"]
        kinds = [entry["kind"] for entry in running.journal_of(run)]
        assert kinds == [
            "RUN_ACCEPTED",
            "RUN_STARTED",
            "RUN_YIELDED",
            "RUN_STARTED",
            "RUN_COMPLETED",
        ]

    by_hand(tmp_path, play)


def test_frames_of_an_earlier_lease_change_nothing(tmp_path: Path) -> None:
    """The same worker again: its old session is fenced, and what it still sends, in the old
    session's name or with the old epoch, is told so."""

    async def play(running: Processes, worker: Wire) -> None:
        run = running.submit("by_hand", None, "run")
        _, key, epoch, *_ = await worker.next("dispatch")
        await worker.send(report(key, epoch, 1, step(1)))
        await worker.next("ack")
        async with Connection(parse_endpoint(f"http://{running.grpc}")) as connection:
            again = Wire(connection)
            await again.register("worker-1")
            fenced = await worker.next(Refused)
            assert (fenced.code, fenced.fatal) == ("stale_fence", True)
            _, _, new_epoch, *_ = await again.next("dispatch")
            assert new_epoch == epoch + 1
            journal = running.journal_of(run)
            await again.send(report(key, epoch, 2, step(9)), report(key, epoch, 1, DONE))
            revoked = await again.next(Revoke)
            assert (revoked.run_id, revoked.lease_epoch) == (key, epoch)
            assert running.journal_of(run) == journal
            await again.send(report(key, new_epoch, 1, DONE))
            assert running.output_of(run) == "done"

    by_hand(tmp_path, play)


def test_a_registration_that_comes_twice_ends_the_stream(tmp_path: Path) -> None:
    async def play(running: Processes, worker: Wire) -> None:
        run = running.submit("by_hand", None, "run")
        _, key, epoch, *_ = await worker.next("dispatch")
        register = Register(service_name="wire", worker_id="worker-1", capacity=1)
        await worker.send(wire.encode_worker_frame(register), report(key, epoch, 1, DONE))
        refused = await worker.next(Refused)
        assert (refused.code, refused.fatal) == ("invalid_input", True)
        assert running.status_of(run) == "QUEUED"

    by_hand(tmp_path, play)
