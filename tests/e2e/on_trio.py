"""A worker that a user runs from a program of their own, on Trio: ENDPOINT CA_FILE."""

from __future__ import annotations

import logging
import sys

from engine.sdk import Worker
from tests.e2e import sharing

if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    endpoint, ca_file = sys.argv[1:]
    Worker("on-trio", sharing, endpoint=endpoint, ca_file=ca_file, backend="trio").run()
