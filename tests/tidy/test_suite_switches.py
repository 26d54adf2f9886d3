"""The suite's own switches do what they say: skips forbidden, extensions with every check."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.checked_build import FOLDER
from tests.tidy.sources import ROOT

SKIPPING = """
import pytest

@pytest.mark.skipif(True, reason="no strace here")
def test_marked(): ...

def test_inside():
    pytest.skip("no room here")

@pytest.mark.xfail(reason="known", strict=True)
def test_expected_to_fail():
    raise AssertionError

def test_runs(): ...
"""


def run_suite(folder: Path, text: str, switch: str) -> subprocess.CompletedProcess[str]:
    folder.joinpath("test_some.py").write_text(text)
    environment = os.environ | {"ENGINE_TEST_NO_SKIPS": switch, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", str(folder)]
    options = ["-p", "tests.no_skips", "-p", "no:cacheprovider", "-ra", "--color=no", str(folder)]
    return subprocess.run(
        [*command, *options], env=environment, capture_output=True, text=True, check=False
    )


def test_a_skip_is_a_failure_where_skips_are_forbidden(tmp_path: Path) -> None:
    result = run_suite(tmp_path, SKIPPING, "1")
    assert result.returncode == 1, result.stdout
    assert "2 failed, 1 passed, 1 xfailed" in result.stdout
    assert "test_some.py::test_marked: no strace here" in result.stdout
    assert "test_some.py::test_inside: no room here" in result.stdout


def test_a_skipped_module_is_a_failure_too(tmp_path: Path) -> None:
    text = 'import pytest\npytest.skip("none of it here", allow_module_level=True)\n'
    result = run_suite(tmp_path, text, "1")
    assert result.returncode not in (0, 5), result.stdout
    assert "test_some.py: none of it here" in result.stdout


def test_elsewhere_a_skip_is_a_skip(tmp_path: Path) -> None:
    result = run_suite(tmp_path, SKIPPING, "0")
    assert result.returncode == 0, result.stdout
    assert "1 passed, 2 skipped, 1 xfailed" in result.stdout


@pytest.mark.parametrize("source", sorted((ROOT / "ext").glob("*.pyx")), ids=lambda path: path.stem)
def test_the_checked_variant_is_what_a_child_imports(
    checked_environment: dict[str, str], source: Path
) -> None:
    name = f"engine.ext.{source.stem}"
    code = f"import sys, {name}; sys.stdout.write({name}.__file__)"
    result = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        env=checked_environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout).is_relative_to(FOLDER)
