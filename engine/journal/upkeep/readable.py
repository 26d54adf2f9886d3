"""Reads a store past its damaged places: everything that can be read, and where something cannot.

A scan of RocksDB ends at the first block that does not check out, without saying where the next
good one begins. It is found by trying keys: from the last good one away in growing steps until one
can be read again, then back to the least such key. Where damage is crowded, a good block between
two bad ones may be passed over.
"""

from __future__ import annotations

import heapq
import itertools
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from engine.base.errors import StorageDamaged
from engine.base.ids import RUN_ID_BYTES, RunId
from engine.base.limits import key_length_max
from engine.journal.layout import HEAD_TAG, OPEN_RUN_TAG, RUN_TAG
from engine.journal.store import Store, key_after_prefix

Pair = tuple[bytes, bytes]
OnDamage = Callable[[StorageDamaged], None]

_RECORD_KEY_BYTES: Final = RUN_ID_BYTES + 8
_AFTER_RECORDS: Final = b"\xff" * (_RECORD_KEY_BYTES + 1)
STATE_TAGS: Final = (OPEN_RUN_TAG, RUN_TAG)


class _Range(NamedTuple):
    scan: Callable[[bytes], Iterator[Pair]]  # all pairs from a key on
    first: bytes
    last: bytes  # as long as the longest key there is


class StoredRun(NamedTuple):
    """What a store holds of one run. The records must be taken before the next run is."""

    run: RunId
    head: bytes | None
    states: dict[bytes, bytes]  # rows of the run's state, by key
    records: Iterator[Pair]


def readable_records(store: Store, on_damage: OnDamage) -> Iterator[Pair]:
    family = _Range(
        lambda begin: store.records(begin, _AFTER_RECORDS),
        bytes(_RECORD_KEY_BYTES),
        _AFTER_RECORDS[:_RECORD_KEY_BYTES],
    )
    return _readable(family, on_damage)


def readable_rows(
    store: Store, on_damage: OnDamage, prefix: bytes = b"", *, key_bytes: int = key_length_max
) -> Iterator[Pair]:
    """Rows by prefix. Where keys are known to be short, the next good one is found sooner."""
    after = int.from_bytes(key_after_prefix(prefix).ljust(key_bytes, b"\x00")[:key_bytes], "big")
    family = _Range(
        lambda begin: store.rows(prefix, begin),
        prefix.ljust(key_bytes, b"\x00"),
        (after - 1).to_bytes(key_bytes, "big"),
    )
    return _readable(family, on_damage)


def stored_runs(store: Store, on_damage: OnDamage) -> Iterator[StoredRun]:
    """Every run that has records, a head or a state, in the order of their ids."""
    by_run = itertools.groupby(
        readable_records(store, on_damage), key=lambda pair: pair[0][:RUN_ID_BYTES]
    )
    parts = heapq.merge(
        _row_parts(store, on_damage, HEAD_TAG),
        *(_row_parts(store, on_damage, tag) for tag in STATE_TAGS),
        # Last among a run's parts, since its records end when the next part is asked for.
        ((run, b"\xff", b"", records) for run, records in by_run),
        key=lambda part: part[:2],
    )
    run: bytes | None = None
    head: bytes | None = None
    states: dict[bytes, bytes] = {}
    for found, tag, value, records in parts:
        if run is not None and found != run:
            yield StoredRun(RunId(run), head, states, iter(()))
            head, states = None, {}
        run = found
        if tag == HEAD_TAG:
            head = value
        elif tag in STATE_TAGS:
            states[tag + found] = value
        else:
            yield StoredRun(RunId(run), head, states, records)
            run, head, states = None, None, {}
    if run is not None:
        yield StoredRun(RunId(run), head, states, iter(()))


def _row_parts(
    store: Store, on_damage: OnDamage, tag: bytes
) -> Iterator[tuple[bytes, bytes, bytes, Iterator[Pair]]]:
    for key, value in readable_rows(store, on_damage, tag, key_bytes=len(tag) + RUN_ID_BYTES):
        yield key[len(tag) :], tag, value, iter(())


def _readable(keys: _Range, on_damage: OnDamage) -> Iterator[Pair]:
    begin: bytes | None = b""
    while begin is not None:
        last_key = max(begin, keys.first)
        try:
            for pair in keys.scan(begin):
                last_key = pair[0]
                yield pair
            return
        except StorageDamaged as error:
            on_damage(error)
            begin = _next_readable_key(keys, last_key)


def _next_readable_key(keys: _Range, last_key: bytes) -> bytes | None:
    """The least key after `last_key` from which on something can be read, or None."""
    key_bytes = len(keys.last)
    last = int.from_bytes(last_key.ljust(key_bytes, b"\x00"), "big")
    distance_max = int.from_bytes(keys.last, "big") - last

    def can_read_after(distance: int) -> bool:
        try:
            next(keys.scan((last + distance).to_bytes(key_bytes, "big")), None)
        except StorageDamaged:
            return False
        return True

    failing, distance = 0, min(1, distance_max)
    while not can_read_after(distance):
        if distance == distance_max:
            return None
        failing, distance = distance, min(2 * distance, distance_max)
    while distance - failing > 1:
        middle = (failing + distance) // 2
        if can_read_after(middle):
            distance = middle
        else:
            failing = middle
    return (last + distance).to_bytes(key_bytes, "big")
