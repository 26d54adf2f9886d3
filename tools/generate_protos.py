"""Generates `engine/wire/generated/` from `protos/`. For developers; not part of the product.

Owns how the compilers are called, so that the same sources give the same bytes anywhere: nothing
of the calling machine (its paths, its ruff settings) reaches the output. Knows no message.

    python tools/generate_protos.py [--out FOLDER]
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PROTOS = ROOT / "protos"
GENERATED = ROOT / "engine" / "wire" / "generated"

PLUGIN = "protoc-gen-python_betterproto2"
# Messages only. A generated stub or servicer would parse every message whole, which is what the
# stream's hot path is there to avoid, and would import a gRPC library into engine/wire.
OPTIONS = "client_generation=none,server_generation=none"


def generate(out: Path) -> None:
    """Replaces the folder `out` by what the compilers make of `protos/` now."""
    scripts = Path(sys.executable).parent
    sources = sorted(str(path.relative_to(PROTOS)) for path in PROTOS.rglob("*.proto"))
    with tempfile.TemporaryDirectory(prefix="protos-") as work:
        fresh = Path(work, "generated")
        fresh.mkdir()
        # The plugin formats through ruff, and ruff takes the settings nearest to its working
        # directory: these, and not those of whoever calls.
        Path(work, "ruff.toml").write_text("line-length = 100\n")
        subprocess.run(
            [
                sys.executable,
                "-m",
                "grpc_tools.protoc",
                f"--proto_path={PROTOS}",
                f"--plugin={PLUGIN}={scripts / PLUGIN}",
                f"--python_betterproto2_out={fresh}",
                f"--python_betterproto2_opt={OPTIONS}",
                *sources,
            ],
            cwd=work,
            # The plugin finds ruff by PATH; the one beside this Python is the pinned one.
            env={**os.environ, "PATH": f"{scripts}{os.pathsep}{os.environ.get('PATH', '')}"},
            check=True,
            capture_output=True,
        )
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(fresh, out)


def main() -> int:
    parser = argparse.ArgumentParser(description="Generate the wire code from protos/.")
    parser.add_argument("--out", type=Path, default=GENERATED, metavar="FOLDER")
    try:
        generate(parser.parse_args().out)
    except subprocess.CalledProcessError as failure:
        sys.stderr.write(failure.stderr.decode(errors="replace"))
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
