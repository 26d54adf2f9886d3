"""Feeds damaged bytes to the compiled parsers: a value or a typed error, never anything else.

    python -m tests.ext.fuzz --seed 1 --rounds 20000
    python -m tests.ext.fuzz --seed 1 --seconds 3600

Run as a process of its own, since what it looks for ends the process. With --last-input, what is
about to be fed is in a file before it is fed, so that a crash can be looked into. A run that ends
well says how much was fed, and to which build.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from random import Random

from engine.base.errors import MalformedRecord
from engine.ext import offsets, replay
from engine.model.runs import RunSummary
from tests.ext.mutations import mutated, mutated_record
from tests.histories import history

HISTORIES = 60


def _histories() -> list[list[bytes]]:
    return [
        [
            offsets.encode_record(new.kind, new.flags, offset, new.timestamp_us, new.payload)
            for offset, new in enumerate(history(seed))
        ]
        for seed in range(HISTORIES)
    ]


class Fuzz:
    def __init__(self, seed: int, last_input: Path | None) -> None:
        self.counts: Counter[str] = Counter()
        self._random = Random(seed)
        self._histories = _histories()
        # Kept open: opening it for every input would be most of the work.
        self._last_input = os.open(last_input or os.devnull, os.O_WRONLY | os.O_CREAT)

    def round(self) -> None:
        """Some damaged records into a fold on its way through a history; a record; a key."""
        random = self._random
        values = random.choice(self._histories)
        at = random.randrange(len(values))
        fold = replay.RunFold(RunSummary())
        fold.feed_all(values[:at])
        for _ in range(8):
            damaged = mutated_record(random, values[at])
            if self._try("feed", fold.feed, damaged):
                break  # the same record would be a gap now
            assert fold.next_offset == at
        fold.summary()
        self._try("decode_record", offsets.decode_record, mutated(random, values[at]))
        key = offsets.record_key(values[at][:16], random.getrandbits(64))
        self._try("split_key", offsets.split_key, mutated(random, key))

    def _try(self, name: str, call: Callable[[bytes], object], data: bytes) -> bool:
        # The line's end ends it; what is behind it is left of a longer one.
        os.pwrite(self._last_input, f"{name} {data.hex()}\n".encode(), 0)
        try:
            call(data)
        except MalformedRecord:
            self.counts[f"{name} refused"] += 1
            return False
        self.counts[f"{name} accepted"] += 1
        return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=0.0, help="instead of --rounds")
    parser.add_argument("--last-input", type=Path, help="write each input here before it is fed")
    arguments = parser.parse_args()
    fuzz = Fuzz(arguments.seed, arguments.last_input)
    end = time.monotonic() + arguments.seconds
    rounds = 0
    while time.monotonic() < end if arguments.seconds else rounds < arguments.rounds:
        fuzz.round()
        rounds += 1
    print(json.dumps({"build": replay.__file__, "rounds": rounds, "counts": fuzz.counts}))


if __name__ == "__main__":
    main()
