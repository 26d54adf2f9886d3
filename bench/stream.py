"""The worker stream over loopback: a coordinator in a process of its own, a worker in this one.

The runtime behind the coordinator acknowledges every report at once, so what is measured is the
stream: gRPC, two event loops, scanning and building. Small frames throughout: a report of one step
without content, and its acknowledgement.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import select
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import Any

import grpclib.client
import grpclib.const
import trio

import engine
from engine.base.ids import TenantId
from engine.config.coordinator import CoordinatorSettings
from engine.coordinator.http2 import BytesCodec
from engine.coordinator.ports import Peer
from engine.coordinator.server import Address, Coordinator
from engine.ext import frames
from engine.model.runs import ComponentKind
from engine.model.worker_frames import Component, Register
from engine.runtime.pools import WorkerPort
from engine.wire import worker as wire

RUN = bytes(range(16))
IN_FLIGHT = 64


class _Echo:
    """A session that finds everything durable at once."""

    number = 1

    def __init__(self, port: WorkerPort) -> None:
        self._port = port

    def report(
        self, run_id: bytes, epoch: int, sequence: int, entries: Sequence[tuple[int, bytes]]
    ) -> None:
        self._port.send(frames.build_ack(run_id, epoch, sequence))

    def emit(self, run_id: bytes, epoch: int, event: str, data: bytes) -> None: ...
    def heartbeat(self) -> None: ...
    def drain(self) -> None: ...
    def pause(self) -> None: ...
    def resume(self) -> None: ...
    def disconnect(self) -> None: ...


class _EchoDoor:
    async def connect_worker(
        self, tenant_id: TenantId, register: Register, port: WorkerPort
    ) -> _Echo:
        return _Echo(port)


def _anybody(token: str, peer: Peer) -> TenantId:
    return TenantId("bench")


async def serve() -> None:
    logging.disable()
    coordinator = Coordinator(_EchoDoor(), _anybody, settings=CoordinatorSettings())
    async with trio.open_nursery() as nursery:
        address = await nursery.start(coordinator.serve, Address("127.0.0.1", 0))
        sys.stdout.write(f"{address.port}\n")
        sys.stdout.flush()
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()
                return


@contextlib.contextmanager
def _server() -> Iterator[tuple[int, int]]:
    """The port and the process id."""
    command = [sys.executable, "-m", "bench.stream"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert select.select([process.stdout], [], [], 30)[0], "the coordinator did not start"
        try:
            yield int(process.stdout.readline()), process.pid
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def _connected(port: int) -> AsyncIterator[Any]:
    channel = grpclib.client.Channel("127.0.0.1", port, codec=BytesCodec())
    both_ways = grpclib.const.Cardinality.STREAM_STREAM
    async with channel.request(wire.CONNECT_METHOD, both_ways, bytes, bytes) as stream:
        register = Register(
            components=(Component(name="step", kind=ComponentKind.WORKFLOW),),
            capacity=IN_FLIGHT,
            sdk_version=engine.__version__,
        )
        await stream.send_message(frames.pack_frames([wire.encode(register)]))
        await stream.recv_message()
        yield stream
        await stream.end()
    channel.close()


def _report(sequence: int) -> bytes:
    return frames.build_report(RUN, 1, sequence, [(3, b"")])


async def _one_at_a_time(stream: Any, count: int) -> list[float]:
    """How long each report waited for its acknowledgement, in milliseconds."""
    took: list[float] = []
    for sequence in range(count):
        began = time.perf_counter()
        await stream.send_message(frames.pack_frames([_report(sequence)]))
        await stream.recv_message()
        took.append((time.perf_counter() - began) * 1e3)
    return took


async def _many_at_a_time(stream: Any, count: int, *, per_message: int) -> tuple[float, float]:
    """Reports a second with a window of messages on their way, and frames in one answer."""
    window = asyncio.Semaphore(IN_FLIGHT * per_message)
    answers = 0

    async def acknowledge() -> None:
        nonlocal answers
        left = count
        while left:
            acknowledged = frames.scan_engine_frames(await stream.recv_message())
            answers += 1
            left -= len(acknowledged)
            for _ in acknowledged:
                window.release()

    began = time.perf_counter()
    async with asyncio.TaskGroup() as group:
        group.create_task(acknowledge())
        for first in range(0, count, per_message):
            batch = [_report(sequence) for sequence in range(first, first + per_message)]
            for _ in batch:
                await window.acquire()
            await stream.send_message(frames.pack_frames(batch))
    return count / (time.perf_counter() - began), count / answers


def _cpu_s(process_id: int) -> float:
    fields = Path(f"/proc/{process_id}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


async def _measured(port: int, process_id: int, count: int, rounds: int) -> dict[str, object]:
    waits: list[float] = []
    rates: dict[int, list[float]] = {1: [], 16: []}
    answered: list[float] = []
    async with _connected(port) as stream:
        await _one_at_a_time(stream, 200)
        cpu_before = _cpu_s(process_id)
        for _ in range(rounds):
            rate, per_answer = await _many_at_a_time(stream, count, per_message=1)
            rates[1].append(rate)
            answered.append(per_answer)
        cpu_s = _cpu_s(process_id) - cpu_before
        for _ in range(rounds):
            waits += await _one_at_a_time(stream, count // 20)
            rates[16].append((await _many_at_a_time(stream, count * 4, per_message=16))[0])
    centiles = statistics.quantiles(waits, n=100)
    return {
        "messages_per_s": round(statistics.median(rates[1])),
        "server_us_per_message": round(cpu_s / (rounds * count) * 1e6, 1),
        "frames_per_answer": round(statistics.median(answered), 1),
        "frames_per_s": round(statistics.median(rates[16])),
        "round_trip_p50_ms": round(centiles[49], 3),
        "round_trip_p99_ms": round(centiles[98], 3),
    }


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    """`messages_per_s` sends one report in each message, `frames_per_s` sixteen."""
    del scratch  # nothing is written
    count, rounds = (50_000, 7) if long else (16_000, 3)
    with _server() as (port, process_id):
        return asyncio.run(_measured(port, process_id, count, rounds))


if __name__ == "__main__":
    trio.run(serve)
