"""Landlock: which paths this process, and every thread that it begins, can still open, and which
ports of TCP it can reach. Rights can be given away and never taken back. By `syscall`, since the C
library has no functions for it. Knows no queries.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final

_CREATE_RULESET: Final = 444
_ADD_RULE: Final = 445
_RESTRICT_SELF: Final = 446
_VERSION: Final = 1
_PATH_BENEATH: Final = 1
_NET_PORT: Final = 2

_WRITE_FILE: Final = 1 << 1
_READ_FILE: Final = 1 << 2
_READ_DIR: Final = 1 << 3
_REMOVE_DIR: Final = 1 << 4
_REMOVE_FILE: Final = 1 << 5
_MAKE_DIR: Final = 1 << 7
_MAKE_REG: Final = 1 << 8
_TRUNCATE: Final = 1 << 14
# What there is to be denied, by the version of Landlock that knows it.
_RIGHTS_BITS: Final = {1: 13, 2: 14, 3: 15, 4: 15, 5: 16}
_CONNECT_TCP: Final = 1 << 1
_BIND_AND_CONNECT: Final = 3
_NETWORK_SINCE: Final = 4
_SCOPES_SINCE: Final = 6
_SCOPES: Final = 3  # abstract sockets and signals of others
_ABI_MAX: Final = max(_RIGHTS_BITS)

_READ: Final = _READ_FILE | _READ_DIR
_WRITE: Final = _READ | _WRITE_FILE | _REMOVE_DIR | _REMOVE_FILE | _MAKE_DIR | _MAKE_REG | _TRUNCATE
_OF_A_FILE: Final = _WRITE_FILE | _READ_FILE | _TRUNCATE

_libc: Final = ctypes.CDLL(None, use_errno=True)


class _Ruleset(ctypes.Structure):
    _fields_ = [
        ("handled_fs", ctypes.c_uint64),
        ("handled_net", ctypes.c_uint64),
        ("scoped", ctypes.c_uint64),
    ]


class _PathBeneath(ctypes.Structure):
    _pack_ = 1
    _fields_ = [("allowed", ctypes.c_uint64), ("parent", ctypes.c_int32)]


class _NetPort(ctypes.Structure):
    _fields_ = [("allowed", ctypes.c_uint64), ("port", ctypes.c_uint64)]


def version() -> int:
    """Of the kernel's Landlock; 0 where there is none, or it is off."""
    return max(0, int(_libc.syscall(_CREATE_RULESET, None, 0, _VERSION)))


def restrict(
    *, readable: Sequence[Path], writable: Sequence[Path] = (), ports: Sequence[int] = ()
) -> bool:
    """From here on only these can be opened; False where the kernel has no Landlock. Paths that do
    not exist are left out, and do not become readable by coming into being."""
    abi = version()
    if not abi:
        return False
    handled = (1 << _RIGHTS_BITS[min(abi, _ABI_MAX)]) - 1
    has_network = abi >= _NETWORK_SINCE
    ruleset = _Ruleset(
        handled,
        _BIND_AND_CONNECT if has_network else 0,
        _SCOPES if abi >= _SCOPES_SINCE else 0,
    )
    size = ctypes.sizeof(_Ruleset) if abi >= _SCOPES_SINCE else 16 if has_network else 8
    descriptor = _called(_CREATE_RULESET, ctypes.byref(ruleset), size, 0)
    try:
        for rights, paths in ((_READ, readable), (_WRITE, writable)):
            for path in paths:
                _allow(descriptor, path, rights & handled)
        for port in ports if has_network else ():
            rule = _NetPort(_CONNECT_TCP, port)
            _called(_ADD_RULE, descriptor, _NET_PORT, ctypes.byref(rule), 0)
        _called(_RESTRICT_SELF, descriptor, 0)
    finally:
        os.close(descriptor)
    return True


def _allow(ruleset: int, path: Path, rights: int) -> None:
    try:
        opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
    except OSError:
        return
    try:
        if not path.is_dir():
            rights &= _OF_A_FILE
        rule = _PathBeneath(rights, opened)
        _called(_ADD_RULE, ruleset, _PATH_BENEATH, ctypes.byref(rule), 0)
    finally:
        os.close(opened)


def _called(number: int, *arguments: object) -> int:
    result = int(_libc.syscall(number, *arguments))
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"system call {number}: {os.strerror(code)}")
    return result
