"""What code can ask about the run that it is part of, in a workflow, a function or a step.

Values only, from the run's first record and the dispatch.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from engine.base.ids import RunId, run_id_text
from engine.model.payloads import RunAccepted


class RunFacts(msgspec.Struct, frozen=True):
    id: RunId
    attempt: int
    accepted: RunAccepted


class WithFacts:
    """`ctx.run_id`, `ctx.attempt` and the like."""

    is_engine_context = True
    _facts: RunFacts

    @property
    def run_id(self) -> str:
        return run_id_text(self._facts.id)

    @property
    def attempt(self) -> int:
        """Which try this is, from 1."""
        return self._facts.attempt

    @property
    def component(self) -> str:
        """The name of the component that runs."""
        return self._facts.accepted.component

    @property
    def project_id(self) -> str:
        return self._facts.accepted.project_id

    @property
    def deployment_id(self) -> str:
        return self._facts.accepted.deployment_id

    @property
    def session_id(self) -> str:
        return self._facts.accepted.session_id

    @property
    def user_id(self) -> str:
        return self._facts.accepted.user_id

    @property
    def trace_id(self) -> str:
        return self._facts.accepted.trace_id

    @property
    def correlation_id(self) -> str:
        return self._facts.accepted.correlation_id

    @property
    def entity_key(self) -> str:
        return self._facts.accepted.entity_key

    @property
    def tags(self) -> Mapping[str, str]:
        return self._facts.accepted.tags

    @property
    def prompt_version(self) -> str:
        return self._facts.accepted.prompt_version

    @property
    def parent_run_id(self) -> str | None:
        """The run that started this one as its child."""
        parent = self._facts.accepted.parent_run_id
        return run_id_text(RunId(parent)) if parent else None
