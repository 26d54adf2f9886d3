"""seccomp: the system calls that a process of queries has no use for are refused by the kernel.

A list of what is refused and not of what is let through: the driver, the interpreter and the C
library are free to move among the calls that only compute, read and write what is open to them. No
program is started, no process made, looked into or signalled, no kernel module, mount or key
touched, and a socket made only where a store has to be reached. Knows no queries.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import socket
import struct
from collections.abc import Iterator
from typing import Final, NamedTuple

_PR_SET_SECCOMP: Final = 22
_MODE_FILTER: Final = 2

# Instructions of the filter's machine: load a word, jump if equal or if a bit is set, return.
_LOAD: Final = 0x20
_JUMP_EQUAL: Final = 0x15
_JUMP_GREATER_EQUAL: Final = 0x35
_JUMP_BITS: Final = 0x45
_RETURN: Final = 0x06
_ALLOW: Final = 0x7FFF0000
_KILL: Final = 0x80000000
_ERRNO: Final = 0x00050000
# Where they are in what the filter is shown.
_NUMBER: Final = 0
_ARCHITECTURE: Final = 4
_FIRST_ARGUMENT: Final = 16
_X32: Final = 0x40000000  # calls of another table, under the same architecture
_CLONE_THREAD: Final = 0x00010000


class _Machine(NamedTuple):
    audit: int
    clone: int
    clone3: int
    socket: int
    signal_thread: int  # tgkill: abort() is a signal to oneself
    refused: tuple[int, ...]


# Of newer calls the numbers are the same everywhere: pidfd_send_signal, io_uring, mounts, pidfds.
_EVERYWHERE: Final = (424, 425, 426, 427, 428, 429, 430, 431, 432, 433, 434, 438, 440, 442)
_MACHINES: Final = {
    "x86_64": _Machine(
        audit=0xC000003E,
        clone=56,
        clone3=435,
        socket=41,
        signal_thread=234,
        refused=(
            *(29, 30, 43, 49, 50, 53, 57, 58, 59, 62, 64, 68, 101, 103, 129, 135, 155, 159, 161),
            *(163, 164, 165, 166, 167, 168, 169, 172, 173, 175, 176, 179, 200, 227, 240, 246, 248),
            *(249, 250, 272, 288, 297, 298, 303, 304, 308, 310, 311, 313, 320, 321, 322, 323),
            *_EVERYWHERE,
        ),
    ),
    "aarch64": _Machine(
        audit=0xC00000B7,
        clone=220,
        clone3=435,
        socket=198,
        signal_thread=131,
        refused=(
            *(39, 40, 41, 51, 60, 89, 92, 97, 104, 105, 106, 112, 116, 117, 129, 130, 138, 142),
            *(170, 171, 180, 186, 190, 194, 196, 199, 200, 201, 202, 217, 218, 219, 221, 224, 225),
            *(240, 241, 242, 264, 265, 268, 270, 271, 273, 280, 281, 282, 294),
            *_EVERYWHERE,
        ),
    ),
}

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Program(ctypes.Structure):
    _fields_ = [("length", ctypes.c_ushort), ("filter", ctypes.c_void_p)]


def is_possible() -> bool:
    return platform.machine() in _MACHINES and os.path.exists("/proc/sys/kernel/seccomp")


def refuse_calls(*, may_connect: bool) -> bool:
    """For this thread and all that it begins, for good; False where the kernel has no seccomp.
    `no_new_privs` has to be set."""
    machine = _MACHINES.get(platform.machine())
    if machine is None:
        return False
    code = b"".join(_filter(machine, may_connect=may_connect))
    held = ctypes.create_string_buffer(code, len(code))
    program = _Program(len(code) // 8, ctypes.addressof(held))
    return int(_libc.prctl(_PR_SET_SECCOMP, _MODE_FILTER, ctypes.byref(program), 0, 0)) == 0


def _filter(machine: _Machine, *, may_connect: bool) -> Iterator[bytes]:
    refuse = _ERRNO | errno.EPERM
    yield _step(_LOAD, _ARCHITECTURE)
    yield from _unless(machine.audit, _KILL)
    yield _step(_LOAD, _NUMBER)
    if machine.audit == _MACHINES["x86_64"].audit:
        yield _step(_JUMP_GREATER_EQUAL, _X32, 0, 1)
        yield _step(_RETURN, refuse)
    for number in machine.refused:
        yield from _if(number, refuse)
    # The C library makes threads with the older call where there is no newer one.
    yield from _if(machine.clone3, _ERRNO | errno.ENOSYS)
    # Threads, and no processes.
    yield _step(_JUMP_EQUAL, machine.clone, 0, 4)
    yield _step(_LOAD, _FIRST_ARGUMENT)
    yield _step(_JUMP_BITS, _CLONE_THREAD, 1, 0)
    yield _step(_RETURN, refuse)
    yield _step(_RETURN, _ALLOW)
    yield _step(_JUMP_EQUAL, machine.signal_thread, 0, 4)
    yield _step(_LOAD, _FIRST_ARGUMENT)
    yield _step(_JUMP_EQUAL, os.getpid(), 1, 0)
    yield _step(_RETURN, refuse)
    yield _step(_RETURN, _ALLOW)
    if may_connect:
        yield _step(_JUMP_EQUAL, machine.socket, 0, 5)
        yield _step(_LOAD, _FIRST_ARGUMENT)
        yield _step(_JUMP_EQUAL, socket.AF_INET, 2, 0)
        yield _step(_JUMP_EQUAL, socket.AF_INET6, 1, 0)
        yield _step(_RETURN, refuse)
    else:
        yield from _if(machine.socket, refuse)
    yield _step(_RETURN, _ALLOW)


def _if(number: int, result: int) -> Iterator[bytes]:
    yield _step(_JUMP_EQUAL, number, 0, 1)
    yield _step(_RETURN, result)


def _unless(number: int, result: int) -> Iterator[bytes]:
    yield _step(_JUMP_EQUAL, number, 1, 0)
    yield _step(_RETURN, result)


def _step(code: int, value: int, if_so: int = 0, if_not: int = 0) -> bytes:
    return struct.pack("=HBBI", code, if_so, if_not, value)
