"""Names that come close to one that is not known, within a budget: who asks for a name that does
not exist must not hold up everybody else.

Among few and short names by likeness, which costs the product of their lengths; among more by the
longest common beginning, which a sorted list gives at once.
"""

from __future__ import annotations

import difflib
from bisect import bisect_left
from collections.abc import Sequence

from engine.base import limits


def nearest_names(name: str, names: Sequence[str]) -> list[str]:
    """At most `nearest_names_max` of the names, which are sorted, the nearest first."""
    if len(names) <= limits.nearest_names_fuzzy_max:
        pairs = len(name) * sum(map(len, names))
        if pairs <= limits.nearest_names_pairs_max:
            return difflib.get_close_matches(name, names, n=limits.nearest_names_max)
    return _by_beginning(name, names)


def _by_beginning(name: str, names: Sequence[str]) -> list[str]:
    """What begins as the name does for at least half of it. In a sorted list those that have most
    in common with it stand to both sides of its place, in falling order."""
    place = bisect_left(names, name)
    before = place - 1
    found: list[str] = []
    while len(found) < limits.nearest_names_max:
        left = _common(name, names[before]) if before >= 0 else -1
        right = _common(name, names[place]) if place < len(names) else -1
        if max(left, right) < max(1, len(name) // 2):
            break
        if right >= left:
            found.append(names[place])
            place += 1
        else:
            found.append(names[before])
            before -= 1
    return found


def _common(one: str, other: str) -> int:
    """How many characters they have in common at the beginning."""
    for at, (left, right) in enumerate(zip(one, other, strict=False)):
        if left != right:
            return at
    return min(len(one), len(other))
