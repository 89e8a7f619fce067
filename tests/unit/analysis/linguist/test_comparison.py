"""Linguist itself says the same about files. Skipped where it is not installed (on Debian: ruby-github-linguist)."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import pytest

from app.analysis import lines, tree
from app.analysis.blobs import read_blobs
from app.analysis.git import GitRepository
from app.analysis.linguist import data, generated, paths
from app.analysis.linguist.classification import languages_of
from app.analysis.linguist.detection import CONSIDERED_BYTES
from harness.repositories import Commit, ago, build
from harness.scale import full_only
from tests.unit.analysis.linguist.test_detection import EXAMPLES

SCRIPT = Path(__file__).parent / "describe_files.rb"
# Paths of repositories, separated by colons, for `make test-full`.
REPOSITORIES = os.environ.get("LINGUIST_TEST_REPOSITORIES", "").split(":")
FIND_LIB = 'puts Gem::Specification.find_by_name("github-linguist").full_gem_path + "/lib"'

File = dict[str, Any]


@pytest.fixture(scope="session")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a copy of Linguist that uses the data of this project."""
    if not shutil.which("ruby"):
        pytest.skip("there is no Ruby")
    found = subprocess.run(["ruby", "-e", FIND_LIB], capture_output=True, text=True, check=False)
    if found.returncode != 0:
        pytest.skip("Linguist is not installed")
    copy = tmp_path_factory.mktemp("linguist") / "lib"
    shutil.copytree(found.stdout.strip(), copy)
    target = copy / "linguist"
    (target / "languages.json").write_text(json.dumps(data.load("languages")))
    # JSON is YAML, too.
    heuristics = {"disambiguations": data.load("heuristics"), "named_patterns": data.load("named_patterns")}
    (target / "heuristics.yml").write_text(json.dumps(heuristics))
    (target / "generic.yml").write_text(json.dumps({"extensions": data.load("generic")}))
    for name in ("vendor", "documentation"):
        (target / f"{name}.yml").write_text(
            json.dumps([pattern for pattern in data.load(name) if pattern != paths._NOT_VENDORED])
        )
    return copy


def of_linguist(lib: Path, repository: Path) -> dict[bytes, File]:
    """Return what Linguist says about each file by path, except about missing blobs."""
    done = subprocess.run(["ruby", str(SCRIPT), str(lib), str(repository)], capture_output=True, text=True, check=True)
    files = [json.loads(line) for line in done.stdout.splitlines()]
    return {bytes.fromhex(file.pop("path")): file for file in files}


def of_this_project(path: Path) -> Iterator[tuple[bytes, File]]:
    """Yield what this project says about each file. The language is null if it is unknown or ambiguous."""
    repository = GitRepository(path)
    with NamedTemporaryFile() as regular:
        tree.read_files(repository, "HEAD", regular)
        regular.flush()
        attributes = [attributes for _, _, attributes in lines.with_attributes(repository, "HEAD", Path(regular.name))]
        regular.seek(0)
        for blob, said in zip(read_blobs(repository, regular, CONSIDERED_BYTES), attributes, strict=True):
            path_of_file = tree.path_of(blob.note)
            is_generated = generated.has_generated_path(path_of_file) or generated.has_generated_content(path_of_file, blob.begin)
            languages = [] if blob.is_binary else languages_of(path_of_file, blob.begin, blob.size, said)
            yield (
                path_of_file,
                {
                    "language": languages[0] if len(languages) == 1 else None,
                    "vendored": paths.is_vendored(path_of_file) if said.vendored is None else said.vendored,
                    "documentation": paths.is_documentation(path_of_file) if said.documentation is None else said.documentation,
                    "generated": is_generated if said.generated is None else said.generated,
                },
            )


def differences(lib: Path, repository: Path) -> tuple[int, dict[bytes, tuple[File, File]]]:
    """Return the number of files, and what both say about those where they differ."""
    linguist = of_linguist(lib, repository)
    found = {}
    for path, ours in of_this_project(repository):
        theirs = linguist[path]
        if theirs.pop("ambiguous"):
            ours["language"] = None
        if ours != theirs:
            found[path] = ours, theirs
    return len(linguist), found


def test_examples_of_all_rules(lib: Path, tmp_path: Path) -> None:
    files = {
        f"{number}/x{extension}".encode(): text.encode()
        for extension, examples in EXAMPLES.items()
        for number, (text, _) in enumerate(examples)
    }
    count, found = differences(lib, build(tmp_path / "x.git", [Commit(ago(1), files=files)]))
    assert count == len(files) > 300
    assert {path: said for path, said in found.items() if said[0]["language"] != said[1]["language"]} == {}


@full_only
@pytest.mark.parametrize("repository", REPOSITORIES)
def test_repositories(repository: str, lib: Path) -> None:
    if not repository:
        pytest.skip("LINGUIST_TEST_REPOSITORIES names no repositories")
    count, found = differences(lib, Path(repository))
    assert len(found) <= count * 0.01, found
