"""`engine doctor`: each check on a machine that is as it should be, and on one that is not."""

from __future__ import annotations

import fcntl
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from click.testing import CliRunner

from engine.base.clock import ManualClock
from engine.base.limits import MIB
from engine.cli.checking import checks
from engine.cli.checking.check import Check
from engine.cli.doctor import EXTENSIONS, Diagnosis, check_extensions, check_python
from engine.cli.main import engine
from engine.config.settings import ApiKey, AuthSettings, Settings
from engine.coordinator.server import Address
from engine.journal.layout import lock_path
from tests.cli.running import PROGRAM, ROOT, Running, running

NOBODY = 65_534  # a user who owns nothing


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as found:
        yield found


@pytest.fixture
def http() -> Iterator[httpx.Client]:
    with httpx.Client(timeout=checks.HTTP_TIMEOUT_S, trust_env=False) as client:
        yield client


def address_of(listener: socket.socket) -> Address:
    return Address(*listener.getsockname())


def free_address() -> Address:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return address_of(listener)


def diagnose(*options: str, exit_code: int = 0) -> dict[str, Check]:
    arguments = ["doctor", "--json", *options]
    result = CliRunner().invoke(engine, arguments, catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    diagnosis = msgspec.json.decode(result.stdout, type=Diagnosis)
    assert diagnosis.is_healthy is (exit_code == 0)
    for check in diagnosis.checks:
        assert check.found
        assert check.advice or check.verdict == "ok", check
    return {check.name: check for check in diagnosis.checks}


# ---- the whole command ----


def test_a_machine_without_a_runtime(tmp_path: Path) -> None:
    ports = ("--http", str(free_address()), "--grpc", str(free_address()))
    found = diagnose(*ports, "--data-dir", str(tmp_path / "data"))
    assert list(found) == [
        "python",
        "extensions",
        "settings",
        "data directory",
        "free space",
        "disk sync",
        "archive",
        "query walls",
        "open files",
        "http",
        "grpc",
        "held by",
    ]
    assert found["data directory"].found.endswith("data will be made")
    assert found["archive"].found.endswith("data/archive will be made")
    assert found["held by"].found == "nobody"
    assert not (tmp_path / "data").exists(), "it only looks"


def test_a_runtime_that_is_up(runtime: Running) -> None:
    """A real process, as a user meets it."""
    result = subprocess.run(
        [*PROGRAM, "doctor", *runtime.options],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stdout + result.stderr
    lines = result.stdout.splitlines()
    assert f"ok    http            a runtime answers at {runtime.http}" in lines
    assert f"ok    grpc            workers connect to {runtime.grpc}" in lines
    assert "ok    ready           it takes work" in lines
    (holder,) = (line for line in lines if line.startswith("ok    held by "))
    assert "engine" in holder or "main.py" in holder
    (components,) = (line for line in lines if line.startswith("ok    components "))
    assert "greet" in components
    (archiving,) = (line for line in lines if line.startswith("ok    archiving "))
    assert " runs archived, " in archiving


def test_a_runtime_without_workers(tmp_path: Path) -> None:
    with running(None, tmp_path / "data") as runtime:
        components = diagnose(*runtime.options)["components"]
    assert components.verdict == "warn"
    assert components.advice == f"start one: engine worker MODULE --endpoint {runtime.grpc}"


def test_a_failed_check_is_exit_code_1(
    tmp_path: Path, listener: socket.socket, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "HTTP_TIMEOUT_S", 0.2)
    ports = ("--http", str(address_of(listener)), "--grpc", str(free_address()))
    found = diagnose(*ports, "--data-dir", str(tmp_path), exit_code=1)
    assert found["http"].verdict == "fail"
    result = CliRunner().invoke(engine, ["doctor", *ports, "--data-dir", str(tmp_path)])
    assert result.exit_code == 1
    assert "fail  http            another program listens on" in result.stdout


# ---- python, extensions, settings ----


def test_python() -> None:
    assert check_python(sys.version_info[:3]).verdict == "ok"
    old = check_python((3, 10, 4))
    assert (old.verdict, old.advice) == ("fail", "use Python 3.11 or newer")


def test_extensions() -> None:
    assert check_extensions(("append", "frames")).verdict in ("ok", "warn")
    missing = check_extensions(("append", "no_such_extension"))
    assert missing.verdict == "fail"
    assert "no_such_extension" in missing.found
    assert "make build" in missing.advice


def test_an_extension_that_is_older_than_its_source(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = tmp_path / "stale_extension.py"
    module.touch()
    source = tmp_path / "stale_extension.pyx"
    source.touch()
    os.utime(source, (module.stat().st_mtime + 60,) * 2)
    monkeypatch.setattr("engine.ext.__path__", [str(tmp_path)])
    check = check_extensions(("stale_extension",))
    assert (check.verdict, check.advice) == ("warn", "run `make build`")
    os.utime(source, (0, 0))
    assert check_extensions(("stale_extension",)).verdict == "ok"


def test_settings_that_are_not_usable(tmp_path: Path) -> None:
    file = tmp_path / "engine.toml"
    for text, complaint in (
        ("http = 'localhost'", "HOST:PORT"),
        ("[journal]\ndurability = 'sometimes'", "durability"),
        ("[gateway]\nbody_bytes_max = 'many'", "gateway"),
        ("no = [toml", "not TOML"),
    ):
        file.write_text(text)
        check, settings = checks.check_settings(file, {})
        assert (check.verdict, settings) == ("fail", Settings())
        assert complaint in check.found
    assert "cannot be read" in checks.check_settings(tmp_path / "none.toml", {})[0].found


def test_bad_settings_do_not_end_the_examination(tmp_path: Path) -> None:
    found = diagnose("--http", "localhost", "--data-dir", str(tmp_path), exit_code=1)
    assert found["settings"].verdict == "fail"
    assert "disk sync" in found


# ---- the disk ----


def test_data_directory(tmp_path: Path) -> None:
    assert checks.check_data_dir(tmp_path).verdict != "fail"
    file = tmp_path / "file"
    file.touch()
    assert "not a directory" in checks.check_data_dir(file).found
    (tmp_path / "FORMAT").write_text("99\n")
    check = checks.check_data_dir(tmp_path)
    assert check.verdict == "fail"
    assert "'99'" in check.found


@pytest.fixture
def public_folder() -> Iterator[Path]:
    """One that every user finds, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)


def test_a_directory_of_somebody_else(public_folder: Path) -> None:
    """Seen by a user who may not write to the one, and not even look into the other."""
    theirs, hidden = public_folder / "theirs", public_folder / "hidden"
    theirs.mkdir()
    (hidden / "data").mkdir(parents=True)
    theirs.chmod(0o555)
    hidden.chmod(0o000)

    def see() -> bool:
        for folder in (theirs, theirs / "data", hidden / "data"):
            check = checks.check_data_dir(folder)
            assert check.verdict == "fail", check
            assert checks.holder_of(lock_path(folder)) is None
        return True

    try:
        assert as_nobody(see) if os.geteuid() == 0 else see()
    finally:
        hidden.chmod(0o700)


def as_nobody(see: Callable[[], bool]) -> bool:
    """Root may do everything, so a fork of it gives that up and looks."""
    process_id = os.fork()
    if process_id == 0:
        exit_code = 1
        try:
            os.setuid(NOBODY)
            exit_code = 0 if see() else 1
        finally:
            os._exit(exit_code)
    return os.waitstatus_to_exitcode(os.waitpid(process_id, 0)[1]) == 0


def test_the_file_system_is_that_of_the_longest_mount(tmp_path: Path) -> None:
    mounts = tmp_path / "mounts"
    inner = tmp_path / "inner"
    inner.mkdir()
    mounts.write_text(f"disk / ext4 rw 0 0\nnone {inner} tmpfs rw 0 0\nnone {inner}x nfs rw 0 0\n")
    assert checks.file_system_of(inner / "data", mounts) == "tmpfs"
    assert checks.file_system_of(tmp_path, mounts) == "ext4"
    assert checks.file_system_of(tmp_path, tmp_path / "none") == ""


@pytest.mark.parametrize(
    ("free_bytes", "verdict"), [(MIB, "fail"), (100 * MIB, "warn"), (10_000 * MIB, "ok")]
)
def test_free_space(free_bytes: int, verdict: str) -> None:
    assert checks.check_free_space(free_bytes, Path("/data")).verdict == verdict


class SlowDiskClock(ManualClock):
    """As if each look at it came half a sync later."""

    def __init__(self, step_us: int) -> None:
        super().__init__()
        self._step_us = step_us

    def monotonic_us(self) -> int:
        self.advance_us(self._step_us)
        return super().monotonic_us()


def test_disk_sync(tmp_path: Path) -> None:
    quick = checks.check_sync(tmp_path, SlowDiskClock(400))
    assert (quick.verdict, quick.found) == ("ok", "0.40 ms, the median of 50")
    slow = checks.check_sync(tmp_path, SlowDiskClock(30_000))
    assert slow.verdict == "warn"
    assert "journal.durability" in slow.advice
    assert list(tmp_path.iterdir()) == [], "nothing is left behind"


def test_a_disk_that_cannot_be_written_to() -> None:
    assert checks.check_sync(Path("/proc")).verdict == "fail"


# ---- who holds the data directory ----


def test_holder(tmp_path: Path) -> None:
    assert checks.check_holder(tmp_path, is_up=False).found == "nobody"
    elsewhere = checks.check_holder(tmp_path, is_up=True)
    assert elsewhere.verdict == "warn"
    with lock_path(tmp_path).open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("process 1 (engine serve)\n")
        lock.flush()
        held = checks.check_holder(tmp_path, is_up=True)
        assert (held.verdict, held.found) == ("ok", "process 1 (engine serve)")
        assert checks.check_holder(tmp_path, is_up=False).verdict == "warn"
    left = checks.check_holder(tmp_path, is_up=False)
    assert left.found == "nobody", "what the file says is not who holds it"


# ---- open files ----


def test_a_wall_that_the_kernel_does_not_have_is_named() -> None:
    assert checks.check_walls({"landlock": True, "seccomp": True}).verdict == "ok"
    check = checks.check_walls({"landlock": False, "seccomp": True})
    assert check.verdict == "warn"
    assert "not landlock" in check.found


def test_open_files() -> None:
    assert checks.check_open_files(1_024, Settings()).verdict == "ok"
    assert checks.check_open_files(256, Settings()).verdict == "warn"
    keys = tuple(ApiKey(key=f"sk_{n:020}", tenant_id=f"t{n}") for n in range(100))
    many = Settings(auth=AuthSettings(keys=keys))
    check = checks.check_open_files(1_024, many)
    assert check.verdict == "warn"
    assert "ulimit -n 2010" in check.advice
    assert checks.check_open_files(-1, many).verdict == "ok", "no limit"


# ---- the ports ----


def test_ports_that_are_free(http: httpx.Client) -> None:
    check, is_up = checks.check_http(http, free_address())
    assert (check.verdict, is_up) == ("ok", False)
    assert checks.check_grpc(free_address(), is_up=False).verdict == "ok"
    assert checks.check_grpc(free_address(), is_up=True).verdict == "warn"


def test_ports_that_others_hold(listener: socket.socket) -> None:
    with httpx.Client(timeout=0.2, trust_env=False) as impatient:
        check, is_up = checks.check_http(impatient, address_of(listener))
    assert (check.verdict, is_up) == ("fail", False)
    assert "another program" in check.found
    assert "--http" in check.advice
    assert "--grpc" in checks.check_grpc(address_of(listener), is_up=False).advice


def test_a_port_that_a_connection_begins_at(listener: socket.socket) -> None:
    with socket.create_connection(listener.getsockname()) as connection:
        check = checks.check_grpc(address_of(connection), is_up=False)
    assert check.verdict == "warn"
    assert "ip_local_reserved_ports" in check.advice


def test_addresses_that_are_not_of_this_machine(http: httpx.Client) -> None:
    for address in (Address("192.0.2.1", 34_181), Address("no.such.host.invalid", 34_181)):
        check, is_up = checks.check_http(http, address)
        assert (check.verdict, is_up) == ("fail", False)
        assert checks.check_grpc(address, is_up=False).verdict == "fail"


# ---- the runtime's answers ----


def answering(status: int, body: Any) -> httpx.Client:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return httpx.Client(
        transport=httpx.MockTransport(lambda request: httpx.Response(status, content=content))
    )


def component(name: str, workers: int) -> dict[str, object]:
    return {"name": name, "kind": "workflow", "deployment_id": "default", "workers": workers}


WHERE = Address("127.0.0.1", 34_181)


@pytest.mark.parametrize(
    ("status", "body", "verdict", "found"),
    [
        (200, {"components": [component("a", 1), component("b", 2)]}, "ok", "served: a, b"),
        (200, {"components": [component("a", 1), component("b", 0)]}, "warn", "no worker serves b"),
        (200, {"components": []}, "warn", "no worker has connected yet"),
        (401, {"detail": "the API key is missing"}, "warn", "the API key is missing"),
        (502, b"<html>", "warn", "502"),
        (200, b"<html>", "warn", "cannot be listed"),
    ],
)
def test_components(status: int, body: Any, verdict: str, found: str) -> None:
    with answering(status, body) as client:
        check = checks.check_components(client, WHERE, "0.0.0.0:34180", "")
    assert check.verdict == verdict
    assert found in check.found
    if "engine worker" in check.advice:
        assert check.advice.endswith("--endpoint http://127.0.0.1:34180")


def test_many_components_fit_a_line() -> None:
    many = {"components": [component(f"c{n:03}", 1) for n in range(100)]}
    with answering(200, many) as client:
        check = checks.check_components(client, WHERE, "127.0.0.1:34180", "")
    assert check.found.endswith("c007 and 92 more")


def test_ready() -> None:
    with answering(200, {"status": "ok"}) as client:
        assert checks.check_ready(client, WHERE).verdict == "ok"
    with answering(503, {"detail": "not ready: it is starting"}) as client:
        check = checks.check_ready(client, WHERE)
    assert (check.verdict, check.found) == ("warn", "not ready: it is starting")


def test_every_extension_that_is_built_is_looked_at() -> None:
    sources = Path(__file__).resolve().parents[2] / "ext"
    assert list(EXTENSIONS) == sorted(source.stem for source in sources.glob("*.pyx"))
