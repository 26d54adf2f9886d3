"""Moments as people write them: `7d` for seven days ago, a date, or milliseconds since 1970.

One reading for the command line and for HTTP. Knows no clock: who asks says what time it is.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

DAY_MS: Final = 86_400_000
SPAN_PATTERN: Final = "([0-9]{1,6})(s|min|m|h|d|w)"
MILLISECONDS_PATTERN: Final = "[0-9]{9,16}"
_SPAN: Final = re.compile(SPAN_PATTERN)
_MILLISECONDS: Final = re.compile(MILLISECONDS_PATTERN)
_UNIT_MS: Final = {
    "s": 1_000,
    "m": 60_000,
    "min": 60_000,
    "h": 3_600_000,
    "d": DAY_MS,
    "w": 604_800_000,
}
HOW_TO_WRITE: Final = (
    "a time span back from now (90s, 15min, 3h, 7d, 2w), a date (2026-01-31, 2026-01-31T12:00) or "
    "milliseconds since 1970"
)


def moment_ms(text: str, now_ms: int) -> int | None:
    """Milliseconds since 1970; None if the text says no time. A date without a zone is UTC."""
    text = text.strip()
    if _MILLISECONDS.fullmatch(text):
        return int(text)
    span = _SPAN.fullmatch(text.lower())
    if span is not None:
        return max(0, now_ms - int(span[1]) * _UNIT_MS[span[2]])
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        return None
    aware = moment if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
    try:
        return max(0, int(aware.timestamp() * 1_000))
    except OverflowError:
        return None
