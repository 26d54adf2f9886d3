"""Imports go down only, and each dependency has one door; the contracts are in pyproject.toml.

import-linter reads Python files. What the Cython sources import is read here. A contract that
cannot fail is worse than none, so each is also shown a house that breaks it.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path

from tests.tidy.sources import CYTHON, ROOT, files, shown

PYPROJECT = ROOT / "pyproject.toml"
CONTRACTS = tomllib.loads(PYPROJECT.read_text(encoding="utf-8"))["tool"]["importlinter"][
    "contracts"
]
DOORS = [contract for contract in CONTRACTS if contract["name"].startswith("one door")]
# Folders that a contract names as its own, and so have to be there.
FOLDERS = (
    "archive.rows",
    "archive.files",
    "archive.store",
    "archive.moving",
    "archive.tenant",
    "gateway",
    "sdk",
    "core",
    "runtime",
    "journal",
    "config",
    "wire",
    "ext",
)

_IMPORT = re.compile(r"\s*(?:from\s+([\w.]+)\s+c?import|c?import\s+([\w.]+))\b")
EXTENSIONS_MAY_IMPORT = re.compile(r"(engine\.(base|model|ext)|libc|cpython|cython)(\.|$)")


def linted(folder: Path) -> subprocess.CompletedProcess[str]:
    program = Path(sys.executable).with_name("lint-imports")
    return subprocess.run(
        [program, "--no-cache"], cwd=folder, capture_output=True, text=True, check=False
    )


def house(folder: Path, imports: dict[str, set[str]]) -> Path:
    """A package `engine` with our contracts, whose modules import what they are told to."""
    folder.joinpath("pyproject.toml").write_bytes(PYPROJECT.read_bytes())
    always = ("engine.base", "engine.model", *(f"engine.{name}.always" for name in FOLDERS))
    for module in (*always, *imports):
        path = folder.joinpath(*module.split(".")).with_suffix(".py")
        for package in path.relative_to(folder).parents[:-1]:
            folder.joinpath(package).mkdir(exist_ok=True, parents=True)
            folder.joinpath(package, "__init__.py").touch()
        if not path.with_suffix("").is_dir():
            lines = (f"import {imported}\n" for imported in sorted(imports.get(module, ())))
            path.write_text("".join(lines))
    return folder


def test_imports_go_down_and_through_the_doors() -> None:
    result = linted(ROOT)
    assert result.returncode == 0, result.stdout + result.stderr


def test_every_contract_can_be_broken(tmp_path: Path) -> None:
    foreign = {name for door in DOORS for name in door["forbidden_modules"]}
    intruders = {
        "engine.base.intruder": {"engine.model", *foreign},
        "engine.sdk.intruder": {"engine.journal"},
        "engine.archive.rows.intruder": {
            "engine.archive.store.always",
            "engine.archive.files.always",
        },
        "engine.archive.files.intruder": {"engine.archive.moving.always"},
        "engine.sdk.replay.intruder": {"engine.sdk.worker.always"},
        "engine.sdk.worker.always": set(),
        "engine.gateway.door.intruder": {"engine.gateway.handlers.always"},
        "engine.gateway.handlers.always": set(),
        "engine.core.intruder": {"trio"},
    }
    output = linted(house(tmp_path, intruders)).stdout
    assert [c["name"] for c in CONTRACTS if f"{c['name']} BROKEN" not in output] == [], output


def test_every_door_opens_where_the_table_says(tmp_path: Path) -> None:
    imports: dict[str, set[str]] = {}
    for door in DOORS:
        for allowed in door["ignore_imports"]:
            module, foreign = allowed.split(" -> ")
            imports.setdefault(module.replace("**", "inner"), set()).add(foreign)
    packages = {module for module in imports if any(m.startswith(f"{module}.") for m in imports)}
    inner = {module: names for module, names in imports.items() if module not in packages}
    output = linted(house(tmp_path, inner)).stdout
    assert [door["name"] for door in DOORS if f"{door['name']} KEPT" not in output] == [], output


def test_a_folder_outside_the_layers_is_noticed(tmp_path: Path) -> None:
    output = linted(house(tmp_path, {"engine.helpers.inner": set()})).stdout
    assert "imports go down only BROKEN" in output
    assert "engine.helpers" in output


def test_the_extensions_import_model_and_base_only() -> None:
    strangers = [
        f"{shown(path)}:{number}: imports {name}; an extension may import engine.base, "
        "engine.model, other extensions, the standard library and the C interface of Python"
        for path in files("ext", suffixes=CYTHON)
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if (found := _IMPORT.match(line))
        if not EXTENSIONS_MAY_IMPORT.match(name := found[1] or found[2])
        if name.partition(".")[0] not in sys.stdlib_module_names
    ]
    assert not strangers, "\n".join(strangers)
