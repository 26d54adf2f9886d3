"""The SDK: what a user's process imports to write workflows, serve them and start them.

    from engine.sdk import Context, Worker, function, workflow

    @function
    def greet(name: str) -> str:
        return f"Hello, {name}"

    @workflow
    async def hello(ctx: Context, name: str) -> str:
        return await ctx.step(greet, name)

    Worker("hello").run()

Start reading at `context.py` (what a workflow can ask for), then `machine.py` (how it is replayed),
then `session.py`. It knows the wire and the vocabulary of the engine, and nothing of its inside.
"""

from engine.sdk.async_client import AsyncClient
from engine.sdk.children import ChildRun
from engine.sdk.client import Client
from engine.sdk.components import Component, EntityRef
from engine.sdk.context import Context
from engine.sdk.decorators import agent, entity, function, scorer, tool, workflow
from engine.sdk.errors import (
    ChildError,
    MissingPackage,
    NonRetryable,
    NotDeterministic,
    NotSerializable,
    RunFailed,
    StateConflict,
    StepError,
    WaitTimedOut,
)
from engine.sdk.query_result import QueryResult
from engine.sdk.registry import Registry
from engine.sdk.retry import RetryPolicy
from engine.sdk.sse import Event
from engine.sdk.step_context import StepContext
from engine.sdk.worker import Worker

__all__ = [
    "AsyncClient",
    "ChildError",
    "ChildRun",
    "Client",
    "Component",
    "Context",
    "EntityRef",
    "Event",
    "MissingPackage",
    "NonRetryable",
    "NotDeterministic",
    "NotSerializable",
    "QueryResult",
    "Registry",
    "RetryPolicy",
    "RunFailed",
    "StateConflict",
    "StepContext",
    "StepError",
    "WaitTimedOut",
    "Worker",
    "agent",
    "entity",
    "function",
    "scorer",
    "tool",
    "workflow",
]
