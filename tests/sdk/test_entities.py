"""Entities in workflows: a child run of one is told which, and a replay notices another one."""

from __future__ import annotations

from typing import Any

import pytest

from engine.base.errors import InvalidInput
from engine.base.limits import key_length_max
from engine.model.payloads import ChildMode, ChildStarted
from engine.sdk import Context, EntityRef, agent, entity, function
from engine.sdk.errors import InvalidComponent
from engine.sdk.replay.operations import Child
from tests.sdk.flows import nothing_ran, of
from tests.sdk.play import Play

__all__ = ["nothing_ran"]


@entity
async def account(ctx: Context, amount: int) -> str:
    return f"{ctx.entity_key} +{amount}"


def test_a_child_run_of_an_entity_has_its_key() -> None:
    async def flow(ctx: Context) -> list[Any]:
        other = await ctx.start(EntityRef("account", "bob"), 7, detach=True)
        return [other.component, await ctx.call(account.of("ann"), 5)]

    worker, run = of(flow, None, account)
    keys = [(one.component, one.entity_key) for one in run.of(ChildStarted)]
    assert keys == [("account", "bob"), ("account", "ann")]
    worker.settle()


def test_an_entity_without_its_key_is_refused_with_what_to_write() -> None:
    async def calls(ctx: Context) -> None:
        await ctx.call(account, 5)

    async def steps(ctx: Context) -> None:
        await ctx.step(account, 5)

    for flow in (calls, steps):
        _, run = of(flow)
        assert run.error is not None
        assert run.error.code == "invalid_input"
        assert "which: account.of(key)" in run.error.message


def test_only_entities_have_keys() -> None:
    @function
    def add(a: int) -> int:
        return a

    with pytest.raises(InvalidComponent, match="function 'add' is no entity and has no keys"):
        add.of("ann")
    for key in ("", "x" * (key_length_max + 1)):
        with pytest.raises(InvalidInput, match=f"an entity's key has 1 to {key_length_max} bytes"):
            account.of(key)


def test_a_replay_that_calls_another_entity_is_not_deterministic() -> None:
    first = Play()
    first.ask(Child("account", ChildMode.JOIN, b"5", "ann"))
    first.settle()
    second = first.again()
    second.ask(Child("account", ChildMode.JOIN, b"5", "bob"))
    error = second.machine.broken
    assert error is not None
    assert "the journal has     child run 'account' of 'ann'" in error.message
    assert "the code asked for  child run 'account' of 'bob'" in error.message


@pytest.mark.parametrize("decorate", [entity, agent])
def test_what_is_replayed_waits_for_what_it_asks(decorate: Any) -> None:
    word = decorate.__name__
    with pytest.raises(InvalidComponent, match=f"and a {word} waits for what it asks: write"):
        decorate(name="plain")(lambda ctx: None)
    with pytest.raises(InvalidComponent, match=f"to the steps and waits of the {word}"):
        decorate(name="late", timeout=1)(account.function)
