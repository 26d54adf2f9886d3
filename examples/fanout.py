"""Fan out, fan in: count the primes below a limit, in slices that are counted at the same time.

    engine dev examples.fanout      a runtime, and a worker that serves this file
    python -m examples.fanout       in another terminal: the primes below 200,000

The slices are child runs, each with a journal of its own, so any worker can take any of them: start
a few more with `engine worker examples.fanout`. Within a slice the parts are steps of one run. Kill
a worker in the middle, and only the parts that it had not finished are counted again.
"""

from __future__ import annotations

import itertools

import msgspec

from engine.sdk import Client, Context, function, workflow

SLICES = 8
PARTS_PER_SLICE = 16


class Numbers(msgspec.Struct):
    """From `first` up to, and without, `end`."""

    first: int
    end: int

    def split(self, count: int) -> list[Numbers]:
        """`count` pieces of nearly the same size."""
        bounds = [self.first + (self.end - self.first) * i // count for i in range(count + 1)]
        return [Numbers(first, end) for first, end in itertools.pairwise(bounds)]


@function
def count_primes(numbers: Numbers) -> int:
    return sum(
        number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))
        for number in range(numbers.first, numbers.end)
    )


@workflow
async def count_slice(ctx: Context, numbers: Numbers) -> int:
    """A step for each part, at most four of them at a time."""
    counts = await ctx.map(count_primes, numbers.split(PARTS_PER_SLICE), limit=4)
    return sum(counts)


@workflow
async def primes_below(ctx: Context, limit: int) -> int:
    """A child run for each slice, all of them at the same time."""
    slices = Numbers(0, limit).split(SLICES)
    counts = await ctx.gather(*(ctx.call(count_slice, numbers) for numbers in slices))
    return sum(counts)


def main(client: Client) -> None:
    print(f"{client.run(primes_below, 200_000):,} primes are below 200,000")


if __name__ == "__main__":
    with Client() as client:
        main(client)
