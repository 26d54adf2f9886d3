"""A run that sleeps for weeks: a trial that ends unless somebody subscribes.

    engine dev examples.sleeper     a runtime, and a worker that serves this file
    python -m examples.sleeper      in another terminal: two trials, with very short days

A sleeping run is a record on the disk and a time in a queue. Switch everything off for the night:
whatever was due is done when the runtime is back, and nothing is done early.

    engine runs start trial '{"email": "ann@example.com"}'      with real days
    engine runs why RUN_ID                                      what it is waiting for
    engine runs signal RUN_ID subscribed '"yearly"'             before 14 days have passed
"""

from __future__ import annotations

import msgspec

from engine.sdk import Client, Context, function, workflow


class Trial(msgspec.Struct):
    email: str
    day_s: float = 86_400.0  # how long a day is, for those who cannot wait


@function
def send(email: str, text: str) -> str:
    return f"{email}: {text}"


@function
def delete_data(email: str) -> None:
    """Nothing is kept of who does not stay."""


@workflow
async def trial(ctx: Context, given: Trial) -> str:
    await ctx.step(send, given.email, "welcome, for 14 days")

    # A signal counts whenever it comes, even before somebody waits for it.
    plan = await ctx.signal("subscribed", timeout=11 * given.day_s, default=None)
    if plan is None:
        await ctx.step(send, given.email, "3 days left")
        plan = await ctx.signal("subscribed", timeout=3 * given.day_s, default=None)
    if plan is not None:
        await ctx.step(send, given.email, f"thank you for the {plan} plan")
        return f"subscribed: {plan}"

    await ctx.step(send, given.email, "your trial has ended, your data is kept for 30 days")
    await ctx.sleep(30 * given.day_s)
    await ctx.step(delete_data, given.email)
    return "left"


def main(client: Client, day_s: float = 0.2) -> None:
    """Two trials: Ann subscribes, Bob does not, and his ends after 44 short days."""
    ann = client.submit(trial, Trial("ann@example.com", day_s))
    bob = client.submit(trial, Trial("bob@example.com", day_s))
    client.signal(ann, "subscribed", "yearly")
    print("Ann:", client.result(ann))
    print("Bob:", client.result(bob))


if __name__ == "__main__":
    with Client() as client:
        main(client)
