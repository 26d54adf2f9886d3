"""`gate`: a gate before every store that a journal of the test opens."""

from __future__ import annotations

from functools import partial

import pytest

from engine.journal import tenants
from tests.journal.stores import Gate, GatedStore


@pytest.fixture
def gate(monkeypatch: pytest.MonkeyPatch) -> Gate:
    gate = Gate()
    monkeypatch.setattr(tenants, "Store", partial(GatedStore, gate=gate))
    return gate
