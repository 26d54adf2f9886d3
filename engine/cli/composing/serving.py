"""The composition root: builds the engine and its doors in one nursery, and takes them down in
order. Everything that is long-lived in the process is owned here."""

from __future__ import annotations

import functools
import gc
import signal
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec
import trio
import trio.lowlevel

from engine.base.clock import system_clock
from engine.base.errors import InvalidSettings
from engine.cli.composing.identity import Identity
from engine.cli.composing.tiers import open_tiers
from engine.config.settings import Settings
from engine.config.tls import server_context
from engine.coordinator.server import Address, Coordinator
from engine.gateway import serve as gateway
from engine.gateway.settings import GatewaySettings
from engine.runtime.engine import open_engine
from engine.runtime.handle import Handle
from engine.runtime.passes import measured_passes

_STOP_SLACK_S = 1.0


class Runtime(msgspec.Struct, frozen=True):
    """A runtime that is up: where it listens."""

    http: str
    grpc: str
    open_runs: int


async def run_runtime(
    settings: Settings, *, on_ready: Callable[[Runtime], Awaitable[None]]
) -> None:
    """Serve until a signal asks to stop: no new requests, then the workers are told, then what is
    pending is committed."""
    gateway_settings = _gateway_settings(settings)
    identity = Identity(settings.auth)
    http_address = parse_address(settings.http, "http")
    grpc_address = parse_address(settings.grpc, "grpc")
    files = settings.tls_certificate, settings.tls_key
    tls_http, tls_grpc = server_context(*files, ["http/1.1"]), server_context(*files, ["h2"])
    stop, gateway_ended = trio.Event(), trio.Event()
    async with (
        open_tiers(settings) as tiers,
        open_engine(
            Path(settings.data_dir),
            settings.journal,
            lease_ms=settings.coordinator.lease_ms,
            followers=[tiers],
        ) as engine,
        measured_passes() as passes,
    ):
        _spare_the_collector()
        handle = Handle(engine, tiers)
        coordinator = Coordinator(handle, identity.of_worker, settings=settings.coordinator)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_stop_on_signal, stop)
            grpc: Address = await nursery.start(
                functools.partial(coordinator.serve, grpc_address, tls=tls_grpc)
            )

            async def serve_http(
                task_status: trio.TaskStatus[tuple[str, int]] = trio.TASK_STATUS_IGNORED,
            ) -> None:
                await gateway.serve(
                    handle,
                    identity.of_request,
                    clock=system_clock,
                    settings=gateway_settings,
                    host=http_address.host,
                    port=http_address.port,
                    stop=stop,
                    more_metrics=passes.text,
                    tls=tls_http,
                    task_status=task_status,
                )
                gateway_ended.set()

            http: tuple[str, int] = await nursery.start(serve_http)
            scheme = "https" if tls_http is not None else "http"
            await on_ready(
                Runtime(f"{scheme}://{Address(*http)}", f"{scheme}://{grpc}", engine.recovered_runs)
            )
            await stop.wait()
            # The gateway bounds this by itself; what answers the last requests is still there.
            with trio.move_on_after(gateway_settings.graceful_stop_s + _STOP_SLACK_S):
                await gateway_ended.wait()
            nursery.cancel_scope.cancel()


def _spare_the_collector() -> None:
    """What has been loaded and recovered stays; looking through it again and again for garbage
    took a fifth of the time of a batch of starts."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(20_000, 50, 100)


def _gateway_settings(settings: Settings) -> GatewaySettings:
    try:
        return msgspec.convert(settings.gateway, GatewaySettings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidSettings(f"the settings of the gateway are not usable: {error}") from error


def parse_address(text: str, setting: str) -> Address:
    """HOST:PORT, with an IPv6 host in brackets."""
    host, separator, port = text.rpartition(":")
    if not separator or not port.isdecimal() or int(port) > 65_535 or "://" in text:
        raise InvalidSettings(
            f"{setting} is {text!r}; it has the form HOST:PORT, such as 127.0.0.1:34181",
            setting=setting,
        )
    return Address(host.strip("[]") or "127.0.0.1", int(port))


async def _stop_on_signal(stop: trio.Event) -> None:
    with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
        async for _ in signals:
            stop.set()
            return
