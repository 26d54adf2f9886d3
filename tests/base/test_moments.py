"""Moments as people write them: what says a time and what does not."""

from __future__ import annotations

import pytest

from engine.base.moments import moment_ms

NOW_MS = 1_767_225_600_000  # 2026-01-01T00:00Z
HOUR_MS = 3_600_000


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("90s", NOW_MS - 90_000),
        ("15min", NOW_MS - HOUR_MS // 4),
        ("15m", NOW_MS - HOUR_MS // 4),
        (" 3H ", NOW_MS - 3 * HOUR_MS),
        ("7d", NOW_MS - 7 * 24 * HOUR_MS),
        ("2w", NOW_MS - 14 * 24 * HOUR_MS),
        ("99999w", 0),
        ("2026-01-01", NOW_MS),
        ("2026-01-01T01:00", NOW_MS + HOUR_MS),
        ("2026-01-01T01:00+01:00", NOW_MS),
        ("2026-01-01T00:00:00Z", NOW_MS),
        ("0001-01-01", 0),
        ("1767225600000", NOW_MS),
    ],
)
def test_what_says_a_time(text: str, expected: int) -> None:
    assert moment_ms(text, NOW_MS) == expected


@pytest.mark.parametrize(
    "text", ["", "yesterday", "7", "-3d", "3 d", "2026-13-01", "7y", "1e12", "9" * 17, "٣d"]
)
def test_what_says_none(text: str) -> None:
    assert moment_ms(text, NOW_MS) is None
