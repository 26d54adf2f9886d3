"""Every kind of component: registered as what it is, and started by the routes of its own kind."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine.model.runs import ComponentKind
from tests.e2e.processes import Processes, processes

CASES = [
    ("workflow", "pay", {"people": [], "amount": 1}, "", []),
    ("function", "add", {"a": 1, "b": 2}, "", 3),
    ("tool", "look_up", "ant", "", "ant: a word"),
    ("scorer", "grade", {"answer": "x", "wanted": "x"}, "", 1.0),
    ("agent", "decide", "bee", "", {"found": "bee: a word", "score": 1.0}),
    ("entity", "account", 7, "?entity_key=zoe", 7),
]
PLURALS = {"entity": "entities"}


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Processes]:
    folder: Path = tmp_path_factory.mktemp("kinds")
    with processes(folder) as running:
        running.start(workers=1, module="tests.e2e.sharing")
        yield running


def test_kinds_arrive_as_they_were_registered(engine: Processes) -> None:
    found = {one["name"]: one["kind"] for one in engine.get("/v1/components")["components"]}
    assert {name: kind for kind, name, *_ in CASES}.items() <= found.items()
    assert set(found.values()) == {kind.name.lower() for kind in ComponentKind}


@pytest.mark.parametrize(("kind", "name", "value", "query", "output"), CASES)
def test_each_is_started_under_its_own_kind(
    engine: Processes, kind: str, name: str, value: Any, query: str, output: Any
) -> None:
    answer = engine.client.post(f"/v1/{kind}/{name}/run{query}", json=value).json()
    assert (answer["status"], answer["output"]) == ("COMPLETED", output), answer
    run = engine.get(f"/v1/runs/{answer['run_id']}")
    assert (run["kind"], run["component"]) == (kind, name)
    plural = PLURALS.get(kind, f"{kind}s")
    submitted = engine.client.post(f"/v1/{plural}/{name}/submit{query}", json=value)
    assert submitted.status_code == 202, submitted.text


def test_a_child_run_has_the_kind_of_its_component(engine: Processes) -> None:
    answer = engine.client.post("/v1/agents/decide/run", json="cat").json()
    kinds = [one["kind"] for one in engine.journal_of(answer["run_id"])]
    assert kinds.count("STEP_COMPLETED") == kinds.count("CHILD_FINISHED") == 1
    page = engine.get("/v1/runs?component=grade&limit=1")
    assert page["runs"][0]["kind"] == "scorer"


def test_another_kind_than_its_own_is_refused_by_name(engine: Processes) -> None:
    answer = engine.client.post("/v1/workflows/add/run", json={"a": 1, "b": 2})
    assert answer.status_code == 422
    assert "'add' is a function, not a workflow; start it under its own kind" in answer.text


def test_an_entity_is_asked_for_by_its_key(engine: Processes) -> None:
    answer = engine.client.post("/v1/entities/account/run", json=1)
    assert answer.status_code == 422
    assert answer.json()["code"] == "invalid_input"
    assert "entity_key" in answer.text
