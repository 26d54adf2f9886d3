"""`engine serve`: what it refuses to start, and how it says so."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from engine.cli.main import engine


@pytest.mark.parametrize("target", ["gateway", "engine", "coordinator"])
def test_a_part_alone_is_refused_with_what_there_is_instead(target: str, tmp_path: Path) -> None:
    data_dir = tmp_path / "data"
    found = CliRunner().invoke(engine, ["serve", "--target", target, "--data-dir", str(data_dir)])
    assert found.exit_code == 2
    assert f"error [invalid_settings]: --target {target} cannot run by itself" in found.output
    assert "Run `engine serve` (--target all) on one machine" in found.output
    assert not data_dir.exists()


def test_the_help_says_which_target_runs() -> None:
    found = CliRunner().invoke(engine, ["serve", "--help"])
    assert found.exit_code == 0
    assert "Only `all` can run so far" in " ".join(found.output.split())


@pytest.mark.parametrize("option", ["--http", "--grpc"])
def test_an_address_that_is_none_is_refused_by_name(option: str, tmp_path: Path) -> None:
    arguments = ["serve", "--data-dir", str(tmp_path), option, "localhost"]
    found = CliRunner().invoke(engine, arguments)
    assert found.exit_code == 2
    assert f"{option[2:]} is 'localhost'; it has the form HOST:PORT" in found.output
