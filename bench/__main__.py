"""Runs one benchmark by name and prints what it measured."""

from __future__ import annotations

import argparse
import importlib
import json
import sys
import tempfile
from pathlib import Path

NAMES = ("journal", "replay", "recovery", "stream", "workflows", "tiering", "query", "json_scan")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m bench", description=__doc__)
    parser.add_argument("name", choices=NAMES)
    parser.add_argument("--json", action="store_true", help="one JSON object on one line")
    parser.add_argument("--long", action="store_true", help="more records, more rounds")
    parser.add_argument(
        "--dir", type=Path, default=Path.cwd(), help="scratch goes here: the disk measured"
    )
    arguments = parser.parse_args()
    module = importlib.import_module(f"bench.{arguments.name}")
    with tempfile.TemporaryDirectory(prefix=".bench-", dir=arguments.dir) as scratch:
        figures = module.measure(Path(scratch), long=arguments.long)
    text = json.dumps(figures) if arguments.json else json.dumps(figures, indent=2)
    sys.stdout.write(text + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
