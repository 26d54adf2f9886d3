"""The walls of the operating system around a process of queries, tried from the inside: what is
carried out there is what somebody would who had taken the process over."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from engine.config.query import QuerySettings
from engine.query import process
from engine.query.child.confinement import walls_possible
from engine.query.messages import Prepare
from engine.query.ports import StoreAccess

# Each attempt in a process of its own, behind walls of its own, and all of them begun by one: what
# they have to load is loaded once.
INSIDE = """
import ctypes, json, os, resource, socket, sys, threading
from pathlib import Path
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.child import confinement
from engine.query.messages import Prepare
from engine.query.ports import StoreAccess
root, scratch = sys.argv[1:3]
prepared = Prepare(settings=QuerySettings(), access=StoreAccess(root=root), scratch=scratch,
                   niceness=5, data_bytes_max=512 * 2**20)
parent = os.getppid()

def carry_out(attempt, said):
    confinement.confine_process(prepared)
    confinement.confine_to(TenantId("acme"), prepared)
    try:
        exec(attempt)
    except (OSError, MemoryError, ValueError, ChildProcessError):
        os.write(said, b"refused")
    else:
        os.write(said, b"carried out")

for attempt in json.load(sys.stdin):
    read, write = os.pipe()
    if not os.fork():
        try:
            carry_out(attempt, write)
        finally:
            os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as said:
        print(json.dumps([attempt, said.read().decode()]), flush=True)
    os.wait()
"""

LANDLOCK = {
    "passwd": "Path('/etc/passwd').read_bytes()",
    "another tenant": "Path(root, 'runs/tenant=umbra/a').read_bytes()",
    "another tenant by dots": "Path(root, 'runs/tenant=acme/../tenant=umbra/a').read_bytes()",
    "the archive's list": "os.listdir(root)",
    "home": "os.listdir(Path.home())",
    "another's memory": "open(f'/proc/{parent}/maps').read() and open(f'/proc/{parent}/mem','rb')",
    "writing to its own archive": "Path(root, 'runs/tenant=acme/b').write_bytes(b'')",
    "writing elsewhere": "Path('/tmp/somewhere').write_bytes(b'')",
}
SECCOMP = {
    "a program": "os.execv('/bin/true', ['true'])",
    "a process": "os.fork() or os._exit(0)",
    "a socket": "socket.socket(socket.AF_INET)",
    "a local socket": "socket.socket(socket.AF_UNIX)",
    "a signal": "os.kill(parent, 0)",
}
LIMITS = {
    "more memory": "bytearray(600 * 2**20)",
    "a higher limit": "resource.setrlimit(resource.RLIMIT_DATA, (2**40, 2**40))",
    "a better turn": "os.nice(-10)",
    "a core": "resource.setrlimit(resource.RLIMIT_CORE, (2**20, 2**20))",
}
POSSIBLE = walls_possible()
ATTEMPTS = {
    **LIMITS,
    **(LANDLOCK if POSSIBLE["landlock"] else {}),
    **(SECCOMP if POSSIBLE["seccomp"] else {}),
}


ALLOWED = (
    "Path(root, 'runs/tenant=acme/a').read_bytes()",
    "Path(scratch, 'x').write_bytes(b'x')",
    "threading.Thread(target=int).start()",
)


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("confined")
    root, scratch = folder / "archive", folder / "scratch"
    scratch.mkdir()
    for tenant in ("acme", "umbra"):
        (root / f"runs/tenant={tenant}").mkdir(parents=True)
        (root / f"runs/tenant={tenant}/a").write_bytes(b"a secret")
    ended = subprocess.run(
        [sys.executable, "-c", INSIDE, str(root), str(scratch)],
        input=json.dumps([*ATTEMPTS.values(), *ALLOWED]),
        capture_output=True,
        text=True,
        check=True,
    )
    return dict(json.loads(line) for line in ended.stdout.splitlines() if line.startswith("["))


@pytest.mark.parametrize("attempt", list(ATTEMPTS.values()), ids=list(ATTEMPTS))
def test_what_a_query_has_no_use_for_is_refused_by_the_kernel(
    outcomes: dict[str, str], attempt: str
) -> None:
    assert outcomes[attempt] == "refused"


@pytest.mark.parametrize("allowed", ALLOWED)
def test_what_it_needs_is_not(outcomes: dict[str, str], allowed: str) -> None:
    assert outcomes[allowed] == "carried out"


async def test_it_steps_back_behind_the_engine(tmp_path: Path) -> None:
    """By itself, and as a session: a kernel that shares the processors among sessions first would
    give it as much as the engine has, however nice it is."""
    begun = process.begin(tmp_path / "scratch")
    try:
        prepared = Prepare(
            settings=QuerySettings(),
            access=StoreAccess(root=str(tmp_path)),
            scratch=str(tmp_path / "scratch"),
            niceness=11,
            data_bytes_max=2**29,
        )
        await begun.prepare(prepared)
        assert os.getpriority(os.PRIO_PROCESS, begun.pid) == 11
        group, ours = map(_group, (begun.pid, os.getpid()))
        if group:
            assert group.endswith(" nice 11\n")
            assert group != ours
    finally:
        await begun.aclose()


def test_it_ends_with_the_engine(tmp_path: Path) -> None:
    """Also an engine that is killed, and also a process that does not look at its socket."""
    code = f"""
import os, socket, subprocess, sys
from pathlib import Path
from engine.query import process
import trio
async def main():
    begun = process.begin(Path({str(tmp_path / "scratch")!r}))
    from engine.query.messages import Prepare, Kind
    from engine.config.query import QuerySettings
    from engine.query.ports import StoreAccess
    await begun.prepare(Prepare(settings=QuerySettings(), access=StoreAccess(root='/tmp'),
        scratch={str(tmp_path / "scratch")!r}, niceness=5, data_bytes_max=2**29))
    os.write(1, b"%d" % begun.pid)
    os.kill(os.getpid(), 9)
trio.run(main)
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    pid = int(ended.stdout)
    for _ in range(10_000):
        if not Path(f"/proc/{pid}/cmdline").exists() or not _command(pid):
            return
    raise AssertionError(f"process {pid} is still there")


def _group(pid: int) -> str:
    """ "" where the kernel has none."""
    try:
        return Path(f"/proc/{pid}/autogroup").read_text(encoding="ascii")
    except FileNotFoundError:
        return ""


def _command(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""
