"""Builds the Cython extensions and nothing else; the rest of the package is in pyproject.toml.

The sources are in ext/, which is reached as engine/ext (docs/decisions/0012). With
ENGINE_EXT_DEBUG=1 the same sources are built with every check that Cython can make at run time,
into a build directory of their own, so that the tests can hold both variants side by side:

    ENGINE_EXT_DEBUG=1 python setup.py build_ext --build-lib DIR
"""

import os
from pathlib import Path

from Cython.Build import cythonize
from setuptools import Extension, setup

CHECKED = os.environ.get("ENGINE_EXT_DEBUG", "0") == "1"
BUILD_FOLDER = Path("build", "debug" if CHECKED else "release")

DIRECTIVES = {
    "language_level": 3,
    "boundscheck": CHECKED,
    "wraparound": CHECKED,
    "initializedcheck": CHECKED,
    "overflowcheck": CHECKED,
    "nonecheck": CHECKED,
    "binding": False,
    "embedsignature": True,
}


def extensions() -> list[Extension]:
    return [
        Extension(
            f"engine.ext.{source.stem}",
            [source.as_posix()],
            extra_compile_args=["-O1", "-g", "-UNDEBUG"] if CHECKED else ["-O3"],
        )
        for source in sorted(Path("engine", "ext").glob("*.pyx"))
    ]


setup(
    ext_modules=cythonize(
        extensions(),
        build_dir=str(BUILD_FOLDER / "cython"),
        compiler_directives=DIRECTIVES,
        quiet=True,
    ),
    options={"build": {"build_base": str(BUILD_FOLDER)}},
)
