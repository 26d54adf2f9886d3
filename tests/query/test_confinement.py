"""The walls of the operating system around a process of queries, tried from the inside: what is
carried out there is what somebody would who had taken the process over."""

from __future__ import annotations

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

INSIDE = """
import ctypes, os, resource, socket, sys
from pathlib import Path
from engine.base.ids import TenantId
from engine.config.query import QuerySettings
from engine.query.child import confinement
from engine.query.messages import Prepare
from engine.query.ports import StoreAccess
root, scratch = {root!r}, {scratch!r}
prepared = Prepare(settings=QuerySettings(), access=StoreAccess(root=root), scratch=scratch,
                   niceness=5, data_bytes_max=512 * 2**20)
parent = os.getppid()
confinement.confine_process(prepared)
confinement.confine_to(TenantId("acme"), prepared)
def attempt():
{attempt}
try:
    attempt()
except (OSError, MemoryError, ValueError, ChildProcessError) as error:
    os.write(1, b"refused")
    os._exit(0)
os._exit(7)
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


def carried_out(tmp_path: Path, attempt: str) -> bytes:
    root, scratch = tmp_path / "archive", tmp_path / "scratch"
    scratch.mkdir()
    for tenant in ("acme", "umbra"):
        (root / f"runs/tenant={tenant}").mkdir(parents=True)
        (root / f"runs/tenant={tenant}/a").write_bytes(b"a secret")
    code = INSIDE.format(root=str(root), scratch=str(scratch), attempt=f"    {attempt}")
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True)
    assert ended.returncode in (0, 7), ended.stderr
    return ended.stdout


@pytest.mark.parametrize("attempt", list(ATTEMPTS.values()), ids=list(ATTEMPTS))
def test_what_a_query_has_no_use_for_is_refused_by_the_kernel(tmp_path: Path, attempt: str) -> None:
    assert carried_out(tmp_path, attempt) == b"refused"


@pytest.mark.parametrize(
    "allowed",
    [
        "Path(root, 'runs/tenant=acme/a').read_bytes()",
        "Path(scratch, 'x').write_bytes(b'x')",
        "__import__('threading').Thread(target=int).start()",
    ],
)
def test_what_it_needs_is_not(tmp_path: Path, allowed: str) -> None:
    assert carried_out(tmp_path, allowed) == b""


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
