"""The system store: wake times in the order of time, and tables by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from engine.base.errors import LimitExceeded
from engine.base.ids import TenantId
from engine.base.limits import MIB, key_length_max, row_bytes_max
from engine.journal.layout import system_path
from engine.journal.store import StoreResources
from engine.journal.system import SystemStore
from tests.journal.harness import ACME, OTHER, files_as_they_are


def open_system(path: Path) -> SystemStore:
    return SystemStore(path, StoreResources(block_cache_bytes=MIB, write_buffer_bytes=4 * MIB))


@pytest.fixture
def system(tmp_path: Path) -> Iterator[SystemStore]:
    system = open_system(tmp_path)
    yield system
    system.close()


# ---- wake times ----


def test_a_tenants_wake_time(system: SystemStore) -> None:
    assert system.wake_of(ACME) is None
    assert system.next_wake_ms() is None
    system.set_wake(ACME, 500)
    system.set_wake(OTHER, 300)
    assert (system.wake_of(ACME), system.wake_of(OTHER)) == (500, 300)
    assert system.next_wake_ms() == 300


def test_due_tenants_come_earliest_first(system: SystemStore) -> None:
    times = {"a": 300, "b": 100, "c": 200, "d": 400, "e": 100}
    for name, due_ms in times.items():
        system.set_wake(TenantId(name), due_ms)
    assert list(system.due_tenants(99)) == []
    assert list(system.due_tenants(300)) == [(100, "b"), (100, "e"), (200, "c"), (300, "a")]


def test_a_later_wake_time_replaces_the_earlier(system: SystemStore) -> None:
    system.set_wake(ACME, 500)
    system.set_wake(ACME, 100)
    system.set_wake(ACME, 900)
    assert list(system.due_tenants(10_000)) == [(900, ACME)]
    system.set_wake(ACME, 900)
    assert list(system.due_tenants(10_000)) == [(900, ACME)]


def test_a_tenant_without_a_timer_is_never_due(system: SystemStore) -> None:
    system.set_wake(ACME, 500)
    system.set_wake(ACME, None)
    system.set_wake(OTHER, None)
    assert system.wake_of(ACME) is None
    assert list(system.due_tenants(10_000)) == []
    assert system.next_wake_ms() is None


def test_a_forgotten_tenant_leaves_the_others(system: SystemStore) -> None:
    system.set_wake(ACME, 500)
    system.set_wake(OTHER, 500)
    system.forget_tenant(ACME)
    assert list(system.due_tenants(500)) == [(500, OTHER)]


@pytest.mark.parametrize("due_ms", [0, 1, 255, 256, 2**32, 2**63, 2**64 - 1])
def test_every_time_there_is(system: SystemStore, due_ms: int) -> None:
    system.set_wake(ACME, due_ms)
    assert system.next_wake_ms() == due_ms
    assert list(system.due_tenants(due_ms)) == [(due_ms, ACME)]
    assert list(system.due_tenants(due_ms - 1)) == []


NAMES = ["a", "ab", "abc", "b", "A", "-", "a" * 64]
CHANGES = st.lists(st.tuples(st.sampled_from(NAMES), st.none() | st.integers(0, 500)), max_size=30)


# Of the module, because Hypothesis draws many examples and opening a store for each is slow.
@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SystemStore]:
    system = open_system(tmp_path_factory.mktemp("system"))
    yield system
    system.close()


@given(changes=CHANGES)
def test_wake_times_are_what_was_set_last(
    shared: SystemStore, changes: list[tuple[str, int | None]]
) -> None:
    for name in NAMES:
        shared.set_wake(TenantId(name), None)
    last: dict[str, int | None] = {}
    for name, due_ms in changes:
        shared.set_wake(TenantId(name), due_ms)
        last[name] = due_ms
    in_order = sorted((due_ms, name) for name, due_ms in last.items() if due_ms is not None)
    assert list(shared.due_tenants(500)) == in_order
    assert shared.next_wake_ms() == (in_order[0][0] if in_order else None)


# ---- tables ----


def test_a_value_by_table_and_key(system: SystemStore) -> None:
    assert system.get("keys", "sk_1") is None
    system.put("keys", "sk_1", b"one")
    system.put("keys", "sk_1", b"two")
    assert system.get("keys", "sk_1") == b"two"
    system.delete("keys", "sk_1")
    assert system.get("keys", "sk_1") is None
    system.delete("keys", "sk_1")


def test_tables_do_not_meet(system: SystemStore) -> None:
    system.put("key", "sab", b"1")
    system.put("keys", "ab", b"2")
    system.put("keysa", "b", b"3")
    system.set_wake(ACME, 1)
    assert list(system.scan("key")) == [("sab", b"1")]
    assert list(system.scan("keys")) == [("ab", b"2")]
    assert list(system.scan("keysa")) == [("b", b"3")]
    assert list(system.scan("other")) == []


def test_a_scan_is_in_the_order_of_keys_and_by_prefix(system: SystemStore) -> None:
    for key in ("b/2", "a", "b/10", "c", "b", "", "ü", "b\xff"):
        system.put("quotas", key, key.encode())
    found = [key for key, _ in system.scan("quotas")]
    assert found == ["", "a", "b", "b/10", "b/2", "b\xff", "c", "ü"]
    assert [key for key, _ in system.scan("quotas", "b/")] == ["b/10", "b/2"]
    assert all(value == key.encode() for key, value in system.scan("quotas"))


def test_the_bounds_of_a_key_and_a_value(system: SystemStore) -> None:
    room = key_length_max - len(b"t" + b"keys" + b"\x00")
    system.put("keys", "k" * room, bytes(row_bytes_max))
    for call in (
        lambda: system.put("keys", "k" * (room + 1), b""),
        lambda: system.put("keys", "ü" * (room // 2 + 1), b""),
        lambda: system.get("keys", "k" * (room + 1)),
        lambda: system.put("keys", "k", bytes(row_bytes_max + 1)),
    ):
        with pytest.raises(LimitExceeded):
            call()
    assert [key for key, _ in system.scan("keys")] == ["k" * room]


@pytest.mark.parametrize("table", ["", "a b", "a\x00b", "../a", "a/b"])
def test_a_table_has_a_name(system: SystemStore, table: str) -> None:
    with pytest.raises(AssertionError):
        system.put(table, "key", b"")


# ---- on the disk ----


def test_what_was_written_is_there_after_a_restart(tmp_path: Path) -> None:
    system = open_system(tmp_path)
    system.set_wake(ACME, 500)
    system.put("keys", "sk_1", b"one")
    system.close()
    system = open_system(tmp_path)
    assert system.wake_of(ACME) == 500
    assert system.get("keys", "sk_1") == b"one"
    system.close()


def test_each_write_is_in_the_files_when_it_returns(tmp_path: Path) -> None:
    system = open_system(tmp_path / "data")
    for number in range(3):
        system.put("keys", "sk", bytes([number]))
        system.set_wake(ACME, number)
        copy = files_as_they_are(tmp_path / "data", tmp_path / f"copy-{number}")
        found = open_system(copy)
        assert found.get("keys", "sk") == bytes([number])
        assert list(found.due_tenants(10)) == [(number, ACME)]
        found.close()
    system.close()


def test_a_checkpoint_is_a_store_of_its_own(tmp_path: Path) -> None:
    system = open_system(tmp_path / "data")
    system.put("keys", "sk", b"before")
    target = system_path(tmp_path / "copy")
    target.parent.mkdir(parents=True)
    assert system.checkpoint(target) > 0
    system.put("keys", "sk", b"after")
    copy = open_system(tmp_path / "copy")
    assert copy.get("keys", "sk") == b"before"
    copy.close()
    system.close()
