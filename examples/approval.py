"""A human in the loop: large claims wait for somebody who says yes or no, for up to a week.

    engine dev examples.approval    a runtime, and a worker that serves this file
    python -m examples.approval     in another terminal: a claim, and you decide

While a run waits for a person it takes nothing but a little room on the disk: no worker holds it,
and everything may be restarted in between. Anyone may answer, with `engine runs answer RUN_ID yes`,
from a program, or over HTTP.
"""

from __future__ import annotations

from datetime import timedelta

import click
import msgspec

from engine.sdk import Client, Context, WaitTimedOut, function, workflow

CENTS_WITHOUT_ASKING = 5_000


class Claim(msgspec.Struct):
    who: str
    what: str
    cents: int

    def __str__(self) -> str:
        return f"{self.cents / 100:.2f} to {self.who} for {self.what}"


@function
def pay(claim: Claim) -> str:
    return f"paid {claim}"


@function
def tell(who: str, text: str) -> str:
    return f"told {who}: {text}"


@workflow
async def expenses(ctx: Context, claim: Claim) -> str:
    if claim.cents > CENTS_WITHOUT_ASKING:
        question = ctx.wait_for_user(
            f"Pay {claim}?", input_type="approval", timeout=timedelta(days=7)
        )
        try:
            is_approved = await question
        except WaitTimedOut:
            return await ctx.step(tell, claim.who, "nobody has looked at it for a week, ask again")
        if not is_approved:
            reason = await ctx.wait_for_user(f"Why not? {claim.who} will read it.")
            return await ctx.step(tell, claim.who, reason)
    return await ctx.step(pay, claim)


def main(client: Client) -> None:
    """One claim; what it asks is answered here, in the terminal."""
    run_id = client.submit(expenses, Claim("Ann", "a chair that does not squeak", cents=42_000))
    for event in client.events(run_id):
        if event.name == "workflow.wait.created":
            ask = click.confirm if event.data["input_type"] == "approval" else click.prompt
            answer = ask(event.data["question"])
            client.resolve_wait(run_id, event.data["wait_id"], answer)
    print(client.result(run_id))


if __name__ == "__main__":
    with Client() as client:
        main(client)
