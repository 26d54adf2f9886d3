"""Shared by the fault tests: C sources of this folder, compiled to be preloaded into a child."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

FOLDER = Path(__file__).parent


@pytest.fixture(scope="session")
def preloaded(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, str]]:
    """The environment of a child in which the calls of a source stand before the C library's."""
    built: dict[str, Path] = {}

    def build(source: str) -> dict[str, str]:
        if source not in built:
            built[source] = compile_shared(FOLDER / source, tmp_path_factory.mktemp("preloaded"))
        return {"LD_PRELOAD": str(built[source])}

    return build


def compile_shared(source: Path, folder: Path) -> Path:
    target = folder / f"{source.stem}.so"
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-Wextra", "-Werror"]
    result = subprocess.run(
        [*command, "-o", str(target), str(source)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return target
