"""`make demo`, whole: what it promises on the screen is what happens."""

from __future__ import annotations

import subprocess
import sys

from tests.cli.running import ROOT


def test_the_demo_ends_with_a_query_over_its_runs() -> None:
    result = subprocess.run(
        [sys.executable, "-m", "examples.demo"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    said = result.stdout
    assert "shipped: parcel-A-1-to-Oslo" in said
    assert said.count("reservation-A-1-5") == 1, "the reservation is not repeated"
    table = [line.split()[:3] for line in said.splitlines()]
    assert ["shipped", "3", "105.5"] in table
    assert ["cancelled", "1", "999"] in table
