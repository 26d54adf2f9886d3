"""Drives one run through the pure core, as the runtime does, and remembers what it wrote."""

from __future__ import annotations

from engine.core.apply import UNREAD_KINDS, apply
from engine.core.decide import decide
from engine.core.state import RunState
from engine.core.values import Decision
from engine.model import effects
from engine.model.commands import BeginExecution, Command, Report, ReportedEntry, StartRun
from engine.model.payloads import Payload, RetryPolicy, RunAccepted
from engine.model.records import RecordKind
from engine.model.runs import ComponentKind, RunStatus
from engine.wire.journal import decode, encode, kind_of

RUN = bytes(range(16))
START_MS = 1_767_225_600_000


class Driver:
    def __init__(self) -> None:
        self.now_ms = START_MS
        self.state = RunState(run_id=RUN)
        self.journal: list[tuple[RecordKind, bytes, int]] = []
        self.effects: list[effects.Effect] = []

    # ---- commands ----

    def carry_out(self, command: Command) -> Decision:
        decision = decide(self.state, command, self.now_ms)
        for entry in decision.entries:
            raw = entry.raw if entry.raw is not None else encode(_present(entry.payload))
            apply(self.state, entry.kind, entry.payload, self.now_ms * 1_000)
            self.journal.append((entry.kind, raw, self.now_ms * 1_000))
        self.effects = [*decision.bookkeeping, *decision.after_commit]
        return decision

    def start(self, *, retry: RetryPolicy | None = None, **fields: object) -> Driver:
        accepted = RunAccepted(
            component="checkout",
            component_kind=ComponentKind.WORKFLOW,
            project_id="shop",
            deployment_id="default",
            retry=retry,
            **fields,  # type: ignore[arg-type]
        )
        self.carry_out(StartRun(accepted=accepted))
        return self

    def begin(self, worker: str = "worker-1") -> Driver:
        self.carry_out(BeginExecution(worker_id=worker, lease_until_ms=self.now_ms + 15_000))
        return self

    def report(
        self,
        *payloads: Payload,
        epoch: int | None = None,
        resolved_meanwhile: frozenset[str] = frozenset(),
    ) -> Driver:
        entries = tuple(
            ReportedEntry(kind_of(payload), encode(payload), payload) for payload in payloads
        )
        self.carry_out(
            Report(
                lease_epoch=self.state.lease_epoch if epoch is None else epoch,
                entries=entries,
                resolved_meanwhile=resolved_meanwhile,
            )
        )
        return self

    # ---- looking ----

    @property
    def status(self) -> RunStatus | None:
        return self.state.status

    @property
    def kinds(self) -> list[str]:
        return [kind.name for kind, _, _ in self.journal]

    def payloads(self, kind: RecordKind) -> list[Payload]:
        return [decode(found, raw) for found, raw, _ in self.journal if found is kind]

    def effect_names(self) -> list[str]:
        return [type(effect).__name__ for effect in self.effects]

    def rebuilt(self) -> RunState:
        """The state that the journal alone gives, from its bytes."""
        state = RunState(run_id=RUN)
        for kind, raw, timestamp_us in self.journal:
            payload = None if kind in UNREAD_KINDS else decode(kind, raw)
            apply(state, kind, payload, timestamp_us)
        return state


def _present(payload: Payload | None) -> Payload:
    assert payload is not None
    return payload
