"""Vendored files and documentation are recognised by their paths."""

from __future__ import annotations

import re
import time

import pytest

from app.analysis.linguist.data import load
from app.analysis.linguist.paths import is_documentation, is_vendored

# Paths with and without what the patterns look for, in all positions.
NAMES = [
    "vendor",
    "deps",
    "cache",
    "dist",
    "node_modules",
    "rebar",
    "configure",
    "d3.js",
    "a.min.js",
    "a.d.ts",
    "xmin.js",
    "docs",
    "README",
]
PATHS = [path for a in NAMES for b in NAMES for path in (a, f"{a}/{b}", f"x/{a}/{b}", f"x{a}/{b}", f"x/{b}.txt")]


@pytest.mark.parametrize(
    "path",
    [
        "vendor/a.go",
        "a/vendors/b.go",
        "third_party/a.c",
        "my3rd-party/a.c",
        "node_modules/a/b.js",
        "js/jquery-1.12.4.js",
        "a.min.css",
        "a/b.d.ts",
        "deps/a.c",
        "debian/rules",
        "configure",
        ".github/workflows/a.yml",
        "tests/fixtures/a.py",
        "bootstrap.css",
        "extjs/src/a.js",
    ],
)
def test_vendored(path: str) -> None:
    assert is_vendored(path.encode())


@pytest.mark.parametrize("path", ["src/deps/a.c", "myvendor/a.go", "a/debian/rules", "configure.ac", "min.js", "Jenkinsfile"])
def test_not_vendored(path: str) -> None:
    assert not is_vendored(path.encode())


@pytest.mark.parametrize("path", ["docs/a.py", "README.md", "a/LICENSE", "src/documentation/a.py", "examples/a.py", "CHANGELOG"])
def test_documentation(path: str) -> None:
    assert is_documentation(path.encode())


@pytest.mark.parametrize("path", ["src/docs/a.py", "READMES/a.py", "mydocs/a.py"])
def test_no_documentation(path: str) -> None:
    assert not is_documentation(path.encode())


def test_faster_patterns_mean_the_same_as_the_data() -> None:
    for name, function in (("vendor", is_vendored), ("documentation", is_documentation)):
        pattern = re.compile("|".join(load(name)), re.MULTILINE)
        assert [function(path.encode()) for path in PATHS] == [pattern.search(path) is not None for path in PATHS]


@pytest.mark.parametrize("path", [b"a" * 10**6, b"import" * 10**5, b"extjs/" * 10**5, b"/" * 10**6])
def test_long_path_takes_no_long_time(path: bytes) -> None:
    started = time.process_time()
    is_vendored(path), is_documentation(path)
    assert time.process_time() - started < 1
