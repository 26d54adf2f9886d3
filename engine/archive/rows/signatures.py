"""What is the same in error messages that differ only in numbers, ids and quoted text.

Two failures of one cause have one signature, so that they can be counted together.
"""

from __future__ import annotations

import functools
import re
from typing import Final

_CHARACTERS_MAX: Final = 200
_QUOTED: Final = re.compile(r"\"[^\"]*\"|'[^']*'|`[^`]*`|“[^”]*”|«[^»]*»")
# UUIDs, long hexadecimal text, words with a digit in them, numbers.
_ID: Final = re.compile(
    r"\b[0-9a-fA-F]{8}(?:-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}\b|\b0x[0-9a-fA-F]+\b|"
    r"\b(?=[^\W_]*\d)[^\W_][\w-]*\b|\d+(?:[.,:]\d+)*"
)
_SPACES: Final = re.compile(r"\s+")


@functools.lru_cache(maxsize=4_096)
def error_signature(message: str) -> str:
    text = _QUOTED.sub("…", message[: 10 * _CHARACTERS_MAX])
    text = _SPACES.sub(" ", _ID.sub("#", text)).strip()
    return text[:_CHARACTERS_MAX]
