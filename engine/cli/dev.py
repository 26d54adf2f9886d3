"""`engine dev [MODULE]`: the whole thing on a laptop: a runtime, and a worker that is started anew
when the code changes. No keys: only this machine may ask."""

from __future__ import annotations

import importlib.util
import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import click
import msgspec
import trio
import watchfiles
from rich.console import Console

from engine.cli.composing.buckets import archive_in_s3
from engine.cli.composing.lifeline import Lifeline
from engine.cli.composing.serving import Runtime, run_runtime
from engine.cli.serve import runtime_options, settings_of

# For a worker whose code changed, to finish what it holds.
_FINISH_S: Final = 10.0
# For a worker whose runtime has gone: there is nobody left to report to.
_LEAVE_S: Final = 1.0


@click.command()
@click.argument("module", required=False)
@runtime_options
@click.option(
    "--s3",
    metavar="URL",
    help="Archive into the S3 server there (MinIO: http://127.0.0.1:9000); makes the bucket.",
)
@click.option("--no-reload", is_flag=True, help="Do not restart the worker when code changes.")
def dev(
    module: str | None,
    data_dir: str | None,
    http: str | None,
    grpc: str | None,
    config: Path | None,
    s3: str | None,
    no_reload: bool,
) -> None:
    """Start a runtime and, with MODULE, a worker that serves it."""
    settings = settings_of(data_dir, http, grpc, config)
    if s3 is not None:
        archive = archive_in_s3(settings.archive, s3, os.environ)
        settings = msgspec.structs.replace(settings, archive=archive)
    console = Console(stderr=True, highlight=False, soft_wrap=True)
    watched = _watched_path(module) if module else None

    async def main() -> None:
        with Lifeline() as lifeline:
            await serve_until_stopped(lifeline)

    async def serve_until_stopped(lifeline: Lifeline) -> None:
        async with trio.open_nursery() as nursery:

            async def ready(runtime: Runtime) -> None:
                _say_ready(console, runtime, module)
                if s3 is not None:
                    console.print(f"ended runs go to {settings.archive.url} at {s3}")
                if module is not None:
                    command = _worker_command(module, runtime.grpc)
                    reload_path = None if no_reload else watched
                    nursery.start_soon(_keep_worker, command, reload_path, lifeline, console)

            await run_runtime(settings, on_ready=ready)
            nursery.cancel_scope.cancel()

    trio.run(main)


def _say_ready(console: Console, runtime: Runtime, module: str | None) -> None:
    console.print(f"[bold]engine[/] is up at [bold]{runtime.http}[/], workers at {runtime.grpc}")
    if runtime.open_runs:
        console.print(f"{runtime.open_runs} open runs taken up where they were")
    if module is None:
        console.print(f"no worker yet; start one: engine worker MODULE --endpoint {runtime.grpc}")


def _worker_command(module: str, endpoint: str) -> list[str]:
    return [sys.executable, "-m", "engine.cli.main", "worker", module, "--endpoint", endpoint]


def _watched_path(module: str) -> Path:
    """The file or package folder of a module; refused before anything is started if there is
    none."""
    if module.endswith(".py"):
        found: Path | None = Path(module)
    else:
        sys.path.insert(0, os.getcwd())
        spec = importlib.util.find_spec(module)
        found = Path(spec.origin) if spec is not None and spec.origin else None
    if found is None or not found.exists():
        raise click.BadParameter(
            f"there is no module {module!r} in {os.getcwd()}; give a module (examples.shop) or a "
            "file (shop.py)",
            param_hint="MODULE",
        )
    return found.parent if found.name == "__init__.py" else found


async def _keep_worker(
    command: Sequence[str], watched: Path | None, lifeline: Lifeline, console: Console
) -> None:
    """One worker process at a time: again when its code changes, and when it dies."""
    while True:
        process = await trio.lowlevel.open_process(
            [*command, "--lifeline", str(lifeline.end)], pass_fds=[lifeline.end]
        )
        patience_s = _LEAVE_S
        try:
            changed = await _wait_changed_or_dead(process, watched)
            patience_s = _FINISH_S
        finally:
            with trio.CancelScope(shield=True):
                await _stop_process(process, patience_s)
        if changed:
            console.print("the code changed: starting the worker anew")
        else:
            console.print(f"the worker ended ({process.returncode}); starting it anew in 1 s")
            await trio.sleep(1.0)


async def _wait_changed_or_dead(process: trio.Process, watched: Path | None) -> bool:
    changed = False
    stop_watching = trio.Event()
    async with trio.open_nursery() as nursery:

        async def wait_changed() -> None:
            nonlocal changed
            assert watched is not None
            async for _ in watchfiles.awatch(watched, stop_event=stop_watching):
                changed = True
                nursery.cancel_scope.cancel()
                return

        async def wait_cancelled() -> None:
            # The watcher waits in a thread that does not hear of a cancellation for 5 s.
            try:
                await trio.sleep_forever()
            finally:
                stop_watching.set()

        async def wait_dead() -> None:
            await process.wait()
            nursery.cancel_scope.cancel()

        nursery.start_soon(wait_dead)
        if watched is not None:
            nursery.start_soon(wait_changed)
            nursery.start_soon(wait_cancelled)
    return changed


async def _stop_process(process: trio.Process, patience_s: float) -> None:
    """Let the worker finish what it holds, for a while."""
    if process.returncode is None:
        process.send_signal(signal.SIGTERM)
        with trio.move_on_after(patience_s):
            await process.wait()
    if process.returncode is None:
        process.kill()
        await process.wait()
