"""The walls that the operating system puts around a process of queries, before it reads anything.

Around all of them: limits of memory, processor, files and their size, no core, no new privileges,
no capabilities, a lower turn at the processor, an end with the engine's. Around what it may touch,
where the kernel can: Landlock and seccomp. In two steps: the first before the driver is loaded, so
that each of its threads is behind it too; the second, narrower, when it is said whose process this
is. Knows no SQL.
"""

from __future__ import annotations

import ctypes
import importlib.util
import math
import os
import resource
import sys
import sysconfig
from pathlib import Path
from typing import Final

import certifi

from engine.base import limits
from engine.base.ids import TenantId
from engine.processes import behind
from engine.query.child import landlock, seccomp
from engine.query.messages import Prepare

_PR_SET_DUMPABLE: Final = 4
_PR_CAPBSET_DROP: Final = 24
_PR_SET_NO_NEW_PRIVS: Final = 38
_CAPABILITY_VERSION: Final = 0x20080522
_CAPABILITIES: Final = 64
_DNS: Final = 53
_HTTP: Final = 80
_HTTPS: Final = 443
# What the C library reads to find a host, and what any program may.
_OF_THE_RESOLVER: Final = tuple(
    Path("/etc", name)
    for name in ("resolv.conf", "hosts", "nsswitch.conf", "gai.conf", "host.conf", "services")
)
_LIBRARIES: Final = tuple(map(Path, ("/usr/lib", "/lib", "/lib64", "/usr/lib64")))
# What there is of processors and memory: the driver ends its process where it may not ask.
_HARMLESS: Final = tuple(
    map(
        Path,
        (
            "/dev/null",
            "/dev/urandom",
            "/dev/zero",
            "/etc/ld.so.cache",
            "/proc/meminfo",
            "/proc/self/cgroup",
            "/proc/sys/vm/overcommit_memory",
            "/sys/devices/system/cpu/online",
            "/sys/fs/cgroup",
        ),
    )
)

_libc: Final = ctypes.CDLL(None, use_errno=True)


def confine_process(prepared: Prepare) -> tuple[str, ...]:
    """The first step. The names of the walls that stand."""
    _limit_resources(prepared)
    behind.step_back(prepared.niceness)
    stand = ["limits"]
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        stand.append("no new privileges")
    if _drop_capabilities():
        stand.append("no capabilities")
    _libc.prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)
    own = [Path(prepared.access.root)] if not prepared.access.is_s3 else []
    if landlock.restrict(
        readable=[*own, *_of_the_interpreter(), *_LIBRARIES, *_of_the_store(prepared), *_HARMLESS],
        writable=[Path(prepared.scratch)],
        ports=_ports(prepared),
    ):
        stand.append("landlock")
    if seccomp.refuse_calls(may_connect=prepared.access.is_s3):
        stand.append("seccomp")
    return tuple(stand)


def confine_to(tenant: TenantId | None, prepared: Prepare) -> tuple[str, ...]:
    """The second step, for this thread and those that it begins from now on."""
    access = prepared.access
    own: list[Path] = []
    if not access.is_s3:
        places = [access.root] if tenant is None else access.directories(tenant)
        own = [Path(place) for place in places]
    stands = landlock.restrict(
        readable=[*own, *_of_the_store(prepared), *_HARMLESS],
        writable=[Path(prepared.scratch)],
        ports=_ports(prepared),
    )
    return ("landlock",) if stands else ()


def limit_cpu(more_s: float) -> None:
    """Of the processor so much more than was used until now."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    _, hard = resource.getrlimit(resource.RLIMIT_CPU)
    threads = max(1, os.cpu_count() or 1)
    soft = math.ceil(used.ru_utime + used.ru_stime + more_s * threads) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (min(soft, hard), hard))


def walls_possible() -> dict[str, bool]:
    """What this kernel has of the walls that not each has."""
    return {"landlock": landlock.version() > 0, "seccomp": seccomp.is_possible()}


def _limit_resources(prepared: Prepare) -> None:
    # The database keeps to its part by itself, and says so; this is for what does not ask it.
    size = prepared.settings.temporary_bytes + limits.query_process_bytes
    for name, value in (
        (resource.RLIMIT_CORE, 0),
        (resource.RLIMIT_DATA, prepared.data_bytes_max),
        (resource.RLIMIT_AS, prepared.data_bytes_max + limits.query_process_address_bytes),
        (resource.RLIMIT_FSIZE, size),
        (resource.RLIMIT_NOFILE, limits.query_process_files_max),
        (resource.RLIMIT_CPU, limits.query_process_cpu_s_max),
        (resource.RLIMIT_MEMLOCK, 0),
    ):
        _, hard = resource.getrlimit(name)
        if hard != resource.RLIM_INFINITY:
            value = min(value, hard)
        resource.setrlimit(name, (value, value))


def _drop_capabilities() -> bool:
    """Also where the engine runs as root: a limit is one only for whoever cannot raise it."""
    for capability in range(_CAPABILITIES):
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    header = (ctypes.c_uint32 * 2)(_CAPABILITY_VERSION, 0)
    none = (ctypes.c_uint32 * 6)()
    return int(_libc.capset(header, none)) == 0


def _of_the_interpreter() -> list[Path]:
    """Where modules are loaded from."""
    named = {sysconfig.get_path(name) for name in ("stdlib", "platstdlib", "purelib", "platlib")}
    found = [Path(name) for name in (*named, *sys.path) if name and _is_of_modules(name)]
    package = importlib.util.find_spec("engine")
    assert package is not None
    return [*found, *map(Path, package.submodule_search_locations or ())]


def _is_of_modules(name: str) -> bool:
    """Not a checkout that stands in the path as well: data may lie in it."""
    return "python" in Path(name).name or Path(name).name in ("lib-dynload", "site-packages")


def _of_the_store(prepared: Prepare) -> list[Path]:
    if not prepared.access.is_s3:
        return []
    extension = importlib.util.find_spec("duckdb_extension_httpfs")
    assert extension is not None
    assert extension.origin is not None
    trusted = Path(prepared.access.ca_file or certifi.where())
    return [*_OF_THE_RESOLVER, Path(extension.origin).parent, trusted]


def _ports(prepared: Prepare) -> list[int]:
    access = prepared.access
    if not access.is_s3:
        return []
    _, separator, port = access.endpoint.rpartition(":")
    if separator and port.isdecimal():
        return [_DNS, int(port)]
    return [_DNS, _HTTPS if access.secure else _HTTP]
