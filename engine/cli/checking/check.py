"""What `engine doctor` says of one thing that it has looked at. Loads nothing of the engine."""

from __future__ import annotations

from typing import Literal

import msgspec

Verdict = Literal["ok", "warn", "fail"]


class Check(msgspec.Struct, frozen=True):
    """What was looked at, what was found, and what to do about it."""

    name: str
    verdict: Verdict
    found: str
    advice: str = ""
