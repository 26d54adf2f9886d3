"""Whether bytes are JSON, in all their parts, without an object made of them; and if not, what is
wrong and where, in words. The scan is `engine.ext.json_scan`.
"""

from __future__ import annotations

from typing import Final

from engine.base import limits
from engine.ext.json_scan import scan_json

# By what the state is called in which the scan could not go on; the first that fits.
_IN_A_STRING: Final = (
    (": escape", "what follows a backslash is not known"),
    ("bytes left", "a string is not UTF-8"),
    (": e", "a string is not UTF-8"),
    (": f", "a string is not UTF-8"),
    (": high", "half of a pair of surrogates stands alone in a string"),
    (": low", "half of a pair of surrogates stands alone in a string"),
    (": u", "\\u is not followed by four hexadecimal digits"),
)
_ELSEWHERE: Final = (
    ("number too long", f"a number has more than {limits.json_number_length_max} characters"),
    ("depth", f"it is nested too deeply, more than {limits.json_depth_max} times"),
    ("behind in top", "extra data"),
    ("behind", "expecting a comma or the end of what is open"),
    ("name", "expecting a property name in quotation marks"),
    ("object", "expecting a property name in quotation marks"),
    ("colon", "expecting a colon"),
    ("exponent", "a number is not right, or out of range"),
    ("minus in", "a digit is missing in a number"),
    ("point in", "a digit is missing in a number"),
    ("e in", "a digit is missing in a number"),
    ("plus in", "a digit is missing in a number"),
    ("zero in", "a number is not right"),
    ("digits in", "a number is not right"),
    ("fraction in", "a number is not right"),
)
_BEFORE_A_TOKEN: Final = ("value", "array", "name", "object", "colon", "depth", "number too long")
_NO_VALUE: Final = "expecting value"
_CONTROL: Final = "a control character in a string is not escaped"


class NotJson(ValueError):
    """What is wrong, and at which byte; at the length of the data if it ends too early."""

    def __init__(self, reason: str, at: int) -> None:
        super().__init__(f"{reason} (byte {at})")
        self.reason = reason
        self.at = at


def check_json(data: bytes) -> None:
    """Raises `NotJson` for what is not one JSON value that a reader can make a value of."""
    found = scan_json(data)
    if found is not None:
        at, state = found
        raise NotJson(_reason(state, data[at] if at < len(data) else None), at)


def _reason(state: str, byte: int | None) -> str:
    if not state.startswith("string"):
        if byte is None and not state.startswith(_BEFORE_A_TOKEN):
            return "it ends too early"
        return next((said for part, said in _ELSEWHERE if state.startswith(part)), _NO_VALUE)
    if byte is None:
        return "a string is truncated"
    if byte >= 0x80:
        return "a string is not UTF-8"
    return next((said for part, said in _IN_A_STRING if part in state), _CONTROL)
