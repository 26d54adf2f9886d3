"""Which batches become one: the decisions of compaction, pure.

Of a day that is over, all small ones. Of a day that still grows, 32 of one class, the oldest first;
a class is a power of 32 of the number of runs, so what comes out is of a higher class: a run is
written anew once for each class at most, and of each class fewer than 32 batches stay. (Bytes would
be no such measure: a small object is mostly footer, and 32 of them can make one of their own size.)
Knows no object and no time of day.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from engine.archive.batches import Batch
from engine.base import limits

_SMALL_BYTES: Final = limits.archive_compacted_bytes_aim // 4


def groups_to_compact(batches: Iterable[Batch], today: str) -> list[list[Batch]]:
    """Each group is of one day and in the order of time; no batch is in two."""
    days: defaultdict[str, list[Batch]] = defaultdict(list)
    for batch in sorted(batches, key=lambda one: (one.day, one.from_ms, one.batch_id)):
        if batch.stored_bytes < _SMALL_BYTES:
            days[batch.day].append(batch)
    groups: list[list[Batch]] = []
    for day, small in days.items():
        groups += _of_growing_day(small) if day >= today else _of_closed_day(small)
    return groups


def class_of(runs: int) -> int:
    """0 for fewer than 32 runs, 1 for fewer than 32 * 32..."""
    found = 0
    while runs >= limits.archive_compacted_fan_in:
        runs //= limits.archive_compacted_fan_in
        found += 1
    return found


def _of_closed_day(small: list[Batch]) -> Iterator[list[Batch]]:
    for group in _filled(small, limits.archive_compacted_batches_max):
        if len(group) > 1:
            yield group


def _of_growing_day(small: list[Batch]) -> Iterator[list[Batch]]:
    classes: defaultdict[int, list[Batch]] = defaultdict(list)
    for batch in small:
        classes[class_of(batch.runs)].append(batch)
    for found, members in sorted(classes.items()):
        groups = list(_filled(members, limits.archive_compacted_fan_in))
        # More may come to the last one.
        if groups and len(groups[-1]) < limits.archive_compacted_fan_in:
            groups.pop()
        for group in groups:
            rises = class_of(sum(one.runs for one in group)) > found
            if len(group) > 1 and (rises or _bytes_of(group) >= _SMALL_BYTES):
                yield group


def _filled(batches: Sequence[Batch], count_max: int) -> Iterator[list[Batch]]:
    """One after the other into a group, until the next does not fit."""
    group: list[Batch] = []
    size = hot_size = 0
    for batch in batches:
        fits = (
            len(group) < count_max
            and size + batch.stored_bytes <= limits.archive_compacted_bytes_aim
            and hot_size + len(batch.hot) <= limits.archive_compacted_hot_bytes_max
        )
        if group and not fits:
            yield group
            group, size, hot_size = [], 0, 0
        group.append(batch)
        size += batch.stored_bytes
        hot_size += len(batch.hot)
    if group:
        yield group


def _bytes_of(group: list[Batch]) -> int:
    return sum(one.stored_bytes for one in group)
