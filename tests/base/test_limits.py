"""The limits: every bound is a positive number, and what must fit into what, does.

The module asserts its relations at import; here it is imported with one bound moved past another,
to see that it notices.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from engine.base import limits

SOURCE = Path(limits.__file__).read_text(encoding="utf-8")


def with_bound(name: str, value: int) -> dict[str, object]:
    """The module's names after an import in which this bound is another."""
    source, count = re.subn(rf"(?m)^{name}: Final = .*$", f"{name}: Final = {value}", SOURCE)
    assert count == 1
    names: dict[str, object] = {}
    exec(compile(source, "limits", "exec"), names)
    return names


def test_every_bound_is_a_positive_number() -> None:
    bounds = {name: value for name, value in vars(limits).items() if re.match(r"[a-z]\w*_", name)}
    assert len(bounds) > 20
    assert [name for name, value in bounds.items() if not (type(value) is int and value > 0)] == []


def test_the_relations_hold() -> None:
    assert with_bound("key_length_max", limits.key_length_max)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("batch_bytes_max", limits.record_payload_bytes_max - 1),
        ("read_page_bytes_max", limits.record_payload_bytes_max - 1),
        ("pending_bytes_max", limits.batch_bytes_max - 1),
        ("pending_records_max", limits.records_per_transition_max - 1),
        ("records_per_transition_max", limits.batch_records_max - 1),
        ("inline_pass_us_max", limits.inline_commit_us_max - 1),
        ("tenants_open_min", limits.tenants_open_max + 1),
        ("flush_interval_ms_min", limits.flush_interval_ms_max + 1),
    ],
)
def test_a_bound_out_of_relation_is_noticed_at_import(name: str, value: int) -> None:
    with pytest.raises(AssertionError):
        with_bound(name, value)


def test_a_runs_offsets_fit_the_header() -> None:
    """The low 32 bits of an offset stand in each header and must tell its records apart."""
    assert limits.records_per_run_max <= 2**32
