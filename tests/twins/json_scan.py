"""The plain twin of ext/json_scan.pyx: the standard library's reader, which makes objects of it.
The specification; slow, and never used by the product."""

from __future__ import annotations

import json
import re
from typing import NoReturn

from engine.base import limits

_STRING = re.compile(r'"(?:[^"\\]|\\.)*"', re.DOTALL)
_NUMBER = re.compile(r"[-+.0-9eE]+")
_EXPONENT = re.compile(r"[eE]\+?([0-9]+)")
_EXPONENT_MAX = 308


def is_json(data: bytes) -> bool:
    """One JSON value in UTF-8 that a reader can make a value of: its nesting, its numbers and the
    characters of its strings are what they may be."""
    try:
        text = data.decode()
        outside = _STRING.sub("", text)
        if _depth(outside) > limits.json_depth_max or not _are_numbers_in_range(outside):
            return False
        value = json.loads(text, parse_constant=_refuse, parse_int=str, parse_float=str)
        json.dumps(value, ensure_ascii=False).encode()  # not with half a pair of surrogates
    except ValueError:
        return False
    return True


def _refuse(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON")


def _depth(outside: str) -> int:
    deepest = depth = 0
    for character in outside:
        depth += (character in "[{") - (character in "]}")
        deepest = max(deepest, depth)
    return deepest


def _are_numbers_in_range(outside: str) -> bool:
    return all(
        len(number) <= limits.json_number_length_max for number in _NUMBER.findall(outside)
    ) and all(int(exponent) <= _EXPONENT_MAX for exponent in _EXPONENT.findall(outside))
