"""Rules for names and docstrings that a program can check."""

from __future__ import annotations

import ast
import functools
import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from harness.servers import ROOT

# A docstring that begins like this continues the name above it instead of standing alone.
DEPENDENT = re.compile(r"(Of|That of|Those|Who|Whom|Whose|Whoever|What|One that|As|All that|From the|Under|By) [a-z]")

Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def sources(*folders: str) -> dict[str, ast.Module]:
    paths = [path for folder in folders for path in (ROOT / folder).rglob("*.py") if "versions" not in path.parts]
    return {str(path.relative_to(ROOT)): parse(path) for path in paths}


@functools.cache
def parse(path: Path) -> ast.Module:
    return ast.parse(path.read_text())


def public_classes(trees: dict[str, ast.Module]) -> dict[str, list[str]]:
    found: dict[str, list[str]] = defaultdict(list)
    for name, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.ClassDef) and not node.name.startswith("_"):
                found[node.name].append(name)
    return found


def dependent_docstrings(trees: dict[str, ast.Module]) -> Iterator[str]:
    for name, tree in trees.items():
        for node in ast.walk(tree):
            if isinstance(node, Documented) and DEPENDENT.match(ast.get_docstring(node) or ""):
                yield f"{name}: {ast.get_docstring(node)}"


def test_no_two_public_classes_share_a_name() -> None:
    assert {name: where for name, where in public_classes(sources("app")).items() if len(where) > 1} == {}


def test_docstrings_stand_alone() -> None:
    assert list(dependent_docstrings(sources("app", "bench", "deploy", "harness", "tests"))) == []


def test_faults_are_found() -> None:
    trees = {"a.py": ast.parse('class Rate:\n    """Of a client."""'), "b.py": ast.parse("class Rate: ...")}
    assert public_classes(trees)["Rate"] == ["a.py", "b.py"]
    assert list(dependent_docstrings(trees)) == ["a.py: Of a client."]


def test_files_are_searched() -> None:
    assert Path(__file__).relative_to(ROOT).as_posix() in sources("tests")
