"""A shop's checkout: what must happen once happens once, and what cannot be finished is undone.

    engine dev examples.shop        a runtime, and a worker that serves this file
    python -m examples.shop         in another terminal: two orders

Each `ctx.step` is recorded before the next one begins. Kill the worker or the runtime between two
of them, start it again, and the checkout goes on behind the last one: nobody is charged twice.
"""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from engine.sdk import (
    Client,
    Context,
    NonRetryable,
    RetryPolicy,
    StepContext,
    StepError,
    function,
    workflow,
)


class Order(msgspec.Struct):
    id: str
    city: str
    items: dict[str, int]  # how many of what
    cents: int


class Receipt(msgspec.Struct):
    order_id: str
    status: str  # "shipped" or "cancelled"
    parcel: str = ""
    why: str = ""


@function
def reserve(order_id: str, items: dict[str, int]) -> str:
    """Put the items aside. A plain `def` runs in a thread, so it may block."""
    return f"reservation-{order_id}-{sum(items.values())}"


@function
def release(reservation: str) -> None:
    """Put the items back."""


@function(retry=RetryPolicy(attempts_max=5, initial_ms=200))
async def charge(ctx: StepContext, order_id: str, cents: int) -> str:
    """Take the money. This bank is always down the first time it is asked.

    A try may have reached the bank even if its answer did not reach us. The idempotency key is the
    same for every try, so that the bank can tell that it is still the same payment.
    """
    if ctx.attempt == 1:
        raise ConnectionError("the bank does not answer")
    return f"payment-{order_id}-{ctx.idempotency_key[-4:]}"


@function
async def refund(payment: str) -> None:
    """Give the money back."""


@function
async def ship(order_id: str, city: str) -> str:
    if city == "Atlantis":
        # Trying again would not help, whatever the retry policy says.
        raise NonRetryable("no carrier goes to Atlantis")
    return f"parcel-{order_id}-to-{city}"


@workflow
async def checkout(ctx: Context, order: Order) -> Receipt:
    reservation = await ctx.step(reserve, order.id, order.items)
    undo: list[tuple[Callable[[str], object], str]] = [(release, reservation)]
    try:
        payment = await ctx.step(charge, order.id, order.cents)
        undo.append((refund, payment))
        parcel = await ctx.step(ship, order.id, order.city)
    except StepError as failure:
        # The undoing is made of steps as well: once begun, it is finished, whatever crashes.
        for step, argument in reversed(undo):
            await ctx.step(step, argument)
        return Receipt(order.id, "cancelled", why=failure.message)
    return Receipt(order.id, "shipped", parcel=parcel)


def main(client: Client) -> None:
    """Two checkouts: one that succeeds, and one that is undone."""
    for order in (
        Order("A-1", city="Oslo", items={"teapot": 1, "cup": 4}, cents=8_900),
        Order("A-2", city="Atlantis", items={"snorkel": 1}, cents=2_500),
    ):
        receipt = client.run(checkout, order)
        print(receipt.order_id, receipt.status, receipt.parcel or receipt.why)


if __name__ == "__main__":
    with Client() as client:
        main(client)
