"""`implementation`: the suite of this folder runs once on the compiled code, once on the twin."""

from __future__ import annotations

import pytest

from tests.ext.implementations import COMPILED, TWIN, Implementation


# Of the session, because Hypothesis draws many examples within one test.
@pytest.fixture(scope="session", params=[COMPILED, TWIN], ids=lambda one: one.name)
def implementation(request: pytest.FixtureRequest) -> Implementation:
    chosen: Implementation = request.param
    return chosen
