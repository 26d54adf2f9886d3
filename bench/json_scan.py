"""Whether the largest value there is, is JSON: milliseconds of one core for the scan at the border,
beside the codec's skipping and the standard library's reader, which makes values of it."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import msgspec

from engine.base.limits import output_bytes_max
from engine.ext.json_scan import scan_json

# By what a reader's branches can and cannot foresee.
VALUES = {
    "empty_arrays": (b"[]",),
    "numbers_alike": (b"1",),
    "texts_alike": (b'"a"',),
    "one_long_text": (b'"' + b"x" * 1_000_000 + b'"',),
    "brackets_mixed": (b"[[]]", b"[]", b"{}", b"[1]", b'{"":1}'),
    "numbers_mixed": (b"1", b"-1", b"1.5", b"1e5", b"12345", b"0"),
    "texts_mixed": (b'""', b'"a"', b'"ab"', b'"\\n"', '"é"'.encode()),
}


def measure(scratch: Path, *, long: bool) -> dict[str, object]:
    del scratch
    rounds = 20 if long else 5
    figures: dict[str, object] = {"bytes": output_bytes_max}
    skip = msgspec.json.Decoder(msgspec.Raw).decode
    for name, pieces in VALUES.items():
        data = _made(pieces)
        figures[f"{name}_scan_ms"] = _best_ms(scan_json, data, rounds)
        figures[f"{name}_codec_ms"] = _best_ms(skip, data, rounds)
        figures[f"{name}_reader_ms"] = _best_ms(json.loads, data, 1)
    return figures


def _made(pieces: tuple[bytes, ...]) -> bytes:
    count = output_bytes_max // (max(map(len, pieces)) + 1)
    return b"[" + b",".join(Random(7).choices(pieces, k=count)) + b"]"


def _best_ms(look: Callable[[bytes], object], data: bytes, rounds: int) -> float:
    best_s = float("inf")
    for _ in range(rounds):
        begun_s = time.thread_time()
        look(data)
        best_s = min(best_s, time.thread_time() - begun_s)
    return round(best_s * 1_000, 1)
