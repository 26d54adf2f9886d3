"""The diagram of a run's statuses in the documentation says what the table of the rules says."""

from __future__ import annotations

from pathlib import Path

from engine.core.transitions import STATUS_PARKED, TRANSITIONS
from engine.model.records import RecordKind
from engine.model.runs import TERMINAL_STATUSES, RunStatus

PAGE = Path(__file__).resolve().parents[2] / "docs" / "run-states.md"


def drawn() -> str:
    """As Mermaid draws it. What does not move the status is not drawn."""
    lines = ["stateDiagram-v2"]
    for status, row in TRANSITIONS.items():
        before = status.name if status else "[*]"
        moves = [(kind, after) for kind, after in row.items() if after is not None]
        if status is RunStatus.RUNNING:
            moves.append((RecordKind.WAIT_CREATED, STATUS_PARKED))
        for kind, after in moves:
            parks = " (parks)" if kind is RecordKind.WAIT_CREATED else ""
            lines.append(f"    {before} --> {after.name}: {kind.name}{parks}")
    lines += [f"    {status.name} --> [*]" for status in sorted(TERMINAL_STATUSES)]
    return "\n".join(lines)


def test_the_diagram_is_the_table() -> None:
    page = PAGE.read_text()
    found = page.split("```mermaid\n")[1].split("\n```")[0]
    assert found == drawn(), f"the diagram in {PAGE.name} has to be:\n{drawn()}"
