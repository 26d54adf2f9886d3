"""The OpenAPI document and the doors agree: what it allows is taken, what it forbids is refused,
and every answer is one that it names. A tester that reads nothing else asks a real runtime."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.e2e.processes import PATIENCE_S, ROOT, processes

KEY = "sk_0123456789abcdef"
SETTINGS = f"""
[[auth.keys]]
key = "{KEY}"
tenant_id = "acme"
"""
EXAMPLES = os.environ.get("DOCUMENT_EXAMPLES", "15")
SEED = os.environ.get("DOCUMENT_SEED", "1")


def test_the_document_and_the_doors_agree(tmp_path: Path) -> None:
    (tmp_path / "engine.toml").write_text(SETTINGS)
    with processes(tmp_path, {"ENGINE_API_KEY": KEY}) as engine:
        engine.client.headers["X-API-Key"] = KEY
        engine.start(workers=1, settings=tmp_path / "engine.toml")
        run = engine.client.post("/v1/function/mark/run", json=1)
        assert run.json()["output"] == 1
        tested = subprocess.run(
            [
                *(sys.executable, "-m", "schemathesis.cli"),
                *("--config-file", str(ROOT / "tests/e2e/schemathesis/schemathesis.toml")),
                *("run", f"http://{engine.http}/openapi.json", "--phases", "coverage,fuzzing"),
                *("--seed", SEED, "--max-examples", EXAMPLES),
                *("--no-shrink", "--generation-database", "none", "--no-color"),
                *("-H", f"X-API-Key:{KEY}", "-H", f"Authorization:Bearer {KEY}"),
            ],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "TESTED_RUN_ID": run.json()["run_id"]},
            capture_output=True,
            text=True,
            timeout=3 * PATIENCE_S,
            check=False,
        )
        assert tested.returncode == 0, tested.stdout + tested.stderr
        assert "defect" not in engine.said()
