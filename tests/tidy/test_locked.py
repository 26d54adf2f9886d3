"""What is installed is locked: each requirement of pyproject.toml has one release with its hashes,
and it is one that pyproject.toml allows. `make lock` writes the files."""

from __future__ import annotations

import re
import tomllib

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.tidy.sources import ROOT

PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]
WANTED = {
    "build": [*PROJECT["dependencies"], *EXTRAS["build"]],
    "dev": [*PROJECT["dependencies"], *EXTRAS["build"], *EXTRAS["dev"]],
}
_PINNED = re.compile(
    r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^ ;\\]+)([^\n]*)\n((?: +--hash=.*\n?)*)", re.M
)


@pytest.mark.parametrize("name", WANTED)
def test_every_requirement_is_locked(name: str) -> None:
    text = (ROOT / "requirements" / f"{name}.txt").read_text(encoding="utf-8")
    releases = list(_PINNED.finditer(text))  # of a name perhaps one for each version of Python
    pinned = {canonicalize_name(found[1]): found for found in releases}
    loose = []
    for wanted in map(Requirement, WANTED[name]):
        if wanted.name == PROJECT["name"]:
            continue
        found = pinned.get(canonicalize_name(wanted.name))
        if found is None or not wanted.specifier.contains(Version(found[2]), prereleases=True):
            loose.append(str(wanted))
    assert not loose, f"not in requirements/{name}.txt: {loose}; run make lock"
    assert all(found[4].count("--hash=sha256:") > 0 for found in releases)
    lines = [line for line in text.splitlines() if line and line[0] not in "# "]
    assert len(lines) == len(releases), "every line is a release with hashes"
