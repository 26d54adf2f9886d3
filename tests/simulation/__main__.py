"""`python -m tests.simulation --seed N` plays one seed with its whole trace, `--seeds A:B` a
campaign that goes on after a failure and names every seed that failed."""

from __future__ import annotations

import argparse
import sys

from engine.base.clock import system_clock
from tests.simulation.world import SimulationFailed, simulate


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--seed", type=int, help="play this seed and show its trace")
    which.add_argument("--seeds", metavar="A:B", help="play the seeds from A up to B")
    asked = parser.parse_args()
    if asked.seed is not None:
        return _play(asked.seed)
    first, _, end = asked.seeds.partition(":")
    return _campaign(int(first), int(end))


def _play(seed: int) -> int:
    try:
        print(f"trace {simulate(seed, echo=print)}")
    except SimulationFailed as failure:
        print(f"\n{failure}")
        return 1
    return 0


def _campaign(first: int, end: int) -> int:
    began_us = system_clock.monotonic_us()
    failed: list[int] = []
    for seed in range(first, end):
        try:
            simulate(seed)
        except SimulationFailed as failure:
            failed.append(seed)
            print(str(failure).partition("\n")[0], flush=True)
    took_s = (system_clock.monotonic_us() - began_us) / 1_000_000
    print(f"{end - first} seeds in {took_s:.1f} s, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
