"""The SDK: what a user's process imports to write workflows, serve them and start them.

    from engine.sdk import Context, Worker, function, workflow

    @function
    def greet(name: str) -> str:
        return f"Hello, {name}"

    @workflow
    async def hello(ctx: Context, name: str) -> str:
        return await ctx.step(greet, name)

    Worker("hello").run()

Start reading at `authoring/context.py` (what a workflow can ask for), then `replay/machine.py` (how
it is replayed), then `worker/session.py`; `client/` is a room of its own. It knows the wire and the
vocabulary of the engine, and nothing of its inside.
"""

from engine.sdk.authoring.children import ChildRun
from engine.sdk.authoring.components import Component, EntityRef
from engine.sdk.authoring.context import Context
from engine.sdk.authoring.decorators import agent, entity, function, scorer, tool, workflow
from engine.sdk.authoring.registry import Registry
from engine.sdk.authoring.retry import RetryPolicy
from engine.sdk.authoring.step_context import StepContext
from engine.sdk.client.async_client import AsyncClient
from engine.sdk.client.client import Client
from engine.sdk.client.query_result import QueryResult
from engine.sdk.client.sse import Event
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
from engine.sdk.worker.worker import Worker

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
