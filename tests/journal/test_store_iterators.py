"""What the driver's iterators need to stay within their bounds, and snapshots of a store."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from engine.base.limits import MIB
from engine.ext.offsets import record_key
from engine.journal.store import OpenMode, Store, StoreResources
from tests.journal.harness import write_directly

RUNS = 200


def run(number: int) -> bytes:
    return number.to_bytes(16, "big")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    resources = StoreResources(block_cache_bytes=1 * MIB, write_buffer_bytes=4 * MIB)
    opened = Store(tmp_path / "store", resources, OpenMode.READ_WRITE)
    records = [(record_key(run(number), 0), b"%d" % number) for number in range(RUNS)]
    write_directly(opened, records=records)
    yield opened
    opened.close()


@pytest.mark.parametrize("of", ["store", "snapshot"])
def test_values_stay_within_bounds_that_nobody_else_keeps(store: Store, of: str) -> None:
    read: Callable[[bytes, bytes], Iterator[bytes]] = (
        store.record_values if of == "store" else store.snapshot().record_values
    )
    for number in range(RUNS):
        values = read(record_key(run(number), 0), run(number) + b"\xff" * 9)
        clutter = [b"\xff" * 25 + bytes([number]) for _ in range(50)]  # where the bounds had been
        assert (list(values), len(clutter)) == ([b"%d" % number], 50)


def test_a_snapshot_does_not_change(store: Store) -> None:
    write_directly(store, rows=[(b"fa", b"1"), (b"fb", b"2"), (b"g", b"3")])
    snapshot = store.snapshot()
    later = [(record_key(run(0), 1), b"later")]
    write_directly(store, records=later, rows=[(b"fa", None), (b"fc", b"4")])
    assert list(snapshot.rows(b"f")) == [(b"fa", b"1"), (b"fb", b"2")]
    assert list(snapshot.rows(b"f", b"fb")) == [(b"fb", b"2")]
    assert (snapshot.row(b"fa"), snapshot.row(b"fc")) == (b"1", None)
    assert list(snapshot.record_values(record_key(run(0), 0), run(1) + bytes(8))) == [b"0"]
    assert [key for key, _ in store.rows(b"f")] == [b"fb", b"fc"]
