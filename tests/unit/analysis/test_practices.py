"""Files that indicate good practice are found if they are the project's own."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from app.analysis.git import GitRepository
from app.analysis.practices import MAX_CI_BYTES, IndicatorFiles, best_ci_file
from app.analysis.report import build as report_of
from harness.repositories import NOW, SYMLINK, Commit, ago, build

MIT = (Path(__file__).parents[3] / "LICENSE").read_bytes()


def found_in(*paths: str) -> dict[str, str]:
    files = IndicatorFiles()
    for path in paths:
        files.add(path.encode())
    return {name: path.decode() for name, path in files.practices.items() if path is not None}


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("readme", "README.rst"),
        ("readme", ".github/readme.md"),
        ("contributing", "docs/contributing.rst"),
        ("code_of_conduct", "CODE_OF_CONDUCT.md"),
        ("security", ".github/SECURITY.md"),
        ("changelog", "History.md"),
        ("changelog", "00-RELEASENOTES"),
        ("dependencies", "backend/Cargo.toml"),
        ("dependencies", "packages/web/client/package.json"),
        ("dependencies", "requirements/base.txt"),
        ("dependencies", "requirements-dev.txt"),
        ("dependencies", "opam"),
        ("dependencies", "src/Core/Core.csproj"),
        ("lock_file", "uv.lock"),
        ("lock_file", "services/api/v2/go.sum"),
        ("linter", "eslint.config.mjs"),
        ("linter", ".github/linters/.flake8"),
        ("linter", ".clang-tidy.yml"),
    ],
)
def test_practice_of_a_path(name: str, path: str) -> None:
    assert found_in(path) == {name: path}


TESTS = """
    polls/tests.py AppTests/A.swift test.js e2e/a.spec.ts pkg/deep/thing_test.go spec/models/user_spec.rb
    src/test/java/org/x/FooTest.java tests/cli.rs src/__tests__/a.js t/basic.t tests/unit.c test/user_test.exs
    Foo.Tests/FooTests.cs tests/FooTest.php src/FooTest.kt test/Spec.hs spec/parser_spec.lua src/app.test.tsx
    lib/foo_test.dart t/t0000-basic.sh test/runtests.jl tests/testthat/test-a.R src/commonTest/kotlin/A.kt
    src/androidTest/java/B.java test/foo.bats features/login.feature src/foo_unittest.cc runtest.sh Tests/A.swift
    src/testdir/test_a.vim src/test/regress/a.sql tests.py foo-tests.el cypress/e2e/a.cy.js apps/x_SUITE.erl
    test/App.Tests.ps1 src/FooSpec.scala testsuite/a.ml MyAppUITests/B.swift contracts/Token.t.sol tests/test_a.nim
    packages/core/test/a.mjs TestCase/a.php __test__/a.js JSONTests/A.swift src/URLTest.java src/OrderIT.java testParser.m
    pkg/pods/pods_test.go
"""
NO_TESTS = """
    vendor/github.com/x/y/y_test.go node_modules/x/test.js spec/openapi.yaml docs/testing/README.md tests/README.md
    test/fixtures/a.py examples/app/tests/test_a.py .hidden/test_a.py third_party/gtest/test/a.cc testdata/a_test.go
    contest.py latest/a.py tests/data.json src/attest.c protest.rb fastest/a.js tests/__init__.py test_data/a.py
    {{cookiecutter.name}}/tests/test_a.py src/testimonial.ts spec/index.html inspect.py src/main/java/org/junit/Test.java
    lib/plug/test.ex tests/fixtures/test_a.py specification/a.rb PodSpec.java deps/lua/test/a.c
    Pods/A/Tests/B.swift Carthage/Checkouts/A/ATests/B.swift
"""


@pytest.mark.parametrize("path", TESTS.split())
def test_path_of_a_test(path: str) -> None:
    assert found_in(path).get("tests") == path


@pytest.mark.parametrize("path", NO_TESTS.split())
def test_path_that_is_not_a_test_of_the_project(path: str) -> None:
    assert "tests" not in found_in(path)


@pytest.mark.parametrize(
    "path",
    [
        *("src/readme.py", "news/a.py", "release", "x" * 400 + "/uv.lock", "a\nb/uv.lock"),
        *(".codespell/requirements.txt", "vendor/x/package.json", "node_modules/a/package.json", "third_party/x/CMakeLists.txt"),
        *(
            "examples/a/Cargo.toml",
            "docs/requirements.txt",
            "tests/package.json",
            "deps/x/Makefile.PL",
            "tools/go.sum",
            "Docs/requirements.txt",
            "docs-requirements.txt",
            "requirements-docs.txt",
            "requirements/docs.txt",
            "e2e/package.json",
        ),
        *("third-party/.eslintrc", "vendor/x/.clang-format", "{{cookiecutter.slug}}/pyproject.toml", "_vendor/uv.lock"),
    ],
)
def test_path_without_a_practice(path: str) -> None:
    assert found_in(path) == {}


def test_shortest_path_is_preferred_then_the_first() -> None:
    assert found_in("docs/README.md", "README.txt", "README.rst", "readme.html") == {"readme": "README.rst"}


def test_path_named_like_a_test_is_preferred() -> None:
    assert found_in("test/a.py", "test/pkg/test_b.py", "test/z.py", "test/pkg/test_a.py") == {"tests": "test/pkg/test_a.py"}
    assert found_in("test/b.py", "test/a.py") == {"tests": "test/a.py"}


RUNS_TESTS = [
    *(
        "pytest -q",
        "run: tox",
        "python manage.py test",
        "npm test",
        "npm run test",
        "yarn -s test",
        "pnpm test",
        "cargo test --all",
    ),
    *(
        "go test ./...",
        "make check",
        "make -C src test",
        "ctest --output-on-failure",
        "mvn -B verify",
        "./gradlew test",
        "bundle exec rspec",
    ),
    *(
        "bundle exec rake test",
        "vendor/bin/phpunit",
        "composer test",
        "mix test",
        "stack test",
        "dotnet test",
        "swift test",
        "prove -r t",
    ),
    *(
        "busted",
        "xcodebuild -scheme A test",
        "bazel test //...",
        "./runtest --verbose",
        "sbt +test",
        "R CMD check .",
        "deno test",
        "tests/run.sh",
    ),
]


@pytest.mark.parametrize("command", RUNS_TESTS[:-1])
def test_ci_file_that_runs_the_tests_is_shown(command: str) -> None:
    """It has a longer path than the other one."""
    build = b"on: push\njobs:\n  build:\n    steps:\n      - run: make all\n"
    workflow = f"on: push\njobs:\n  a:\n    steps:\n      - run: {command}\n".encode()
    assert (
        best_ci_file({b".github/workflows/a.yml": build, b".github/workflows/quality.yml": workflow})
        == b".github/workflows/quality.yml"
    )


def test_ci_file_without_a_known_command() -> None:
    """Its name decides. Files that only look after issues do not count."""
    files = {b".github/workflows/lock.yaml": b"on: schedule\n", b".github/workflows/tests.yaml": b"on: push\n"}
    assert best_ci_file(files) == b".github/workflows/tests.yaml"
    assert best_ci_file({b".github/workflows/lock.yaml": b"uses: dessant/lock-threads@v5\n"}) is None
    assert best_ci_file({b".travis.yml": b""}) == b".travis.yml"
    assert best_ci_file({b"a.yml": b"# not make check\nrun: make docs # no pytest\n", b"long.yml": b"run: tox\n"}) == b"long.yml"
    assert best_ci_file({}) is None


def report_for(path: Path, files: dict[bytes, bytes], **others: Any) -> dict[str, Any]:
    commit = Commit(ago(1), files=files, **others)
    return report_of(GitRepository(build(path / "x.git", [commit])), NOW, lambda fraction, step: None)


def test_contents_decide(tmp_path: Path) -> None:
    files = {
        b"pyproject.toml": b"[project]\n\n[tool.ruff]\n",
        b"setup.cfg": b"[metadata]\n",
        b"license.go": b"package license\n",
        b"LICENSE.txt": MIT,
        b".github/workflows/lock.yaml": b"uses: dessant/lock-threads@v5\n",
        b".github/workflows/quality.yaml": b"run: pytest\n",
    }
    report = report_for(tmp_path, files)
    assert (report["practices"]["linter"], report["practices"]["ci"]) == ("pyproject.toml", ".github/workflows/quality.yaml")
    assert (report["practices"]["license"], report["license"]) == ("LICENSE.txt", "MIT")
    assert report["licenses"] == [{"path": "LICENSE.txt", "spdx_id": "MIT"}]


@pytest.mark.parametrize(
    ("path", "text"),
    [
        (b"src/lib.rs", b"fn f() {}\n\n#[cfg(test)]\nmod tests {}\n"),
        (b"src/a.zig", b'const a = 1;\ntest "a" {}\n'),
        (b"source/a.d", b"module a;\n\nunittest\n{\n}\n"),
    ],
)
def test_tests_beside_other_code(path: bytes, text: bytes, tmp_path: Path) -> None:
    report = report_for(tmp_path, {path: text, b"examples/" + path: text, b"a.py": b"#[cfg(test)]\n", b"src/z/" + path: text})
    assert (report["practices"]["tests"], report["practice_files"]["tests"]) == (path.decode(), 2)


def test_test_files_are_counted_once(tmp_path: Path) -> None:
    report = report_for(
        tmp_path, {b"tests/a.rs": b"#[test]\nfn f() {}\n", b"src/a/b.rs": b"#[tokio::test]\n", b"a.rs": b"#[a]\n"}
    )
    assert (report["practices"]["tests"], report["practice_files"]["tests"]) == ("tests/a.rs", 2)


def test_source_file_is_no_licence(tmp_path: Path) -> None:
    report = report_for(tmp_path, {b"license.go": MIT})
    assert (report["practices"]["license"], report["license"], report["licenses"]) == (None, None, [])


def test_links_are_followed_inside_the_tree(tmp_path: Path) -> None:
    report = report_for(tmp_path, {b"legal/MIT.txt": MIT}, others={b"LICENSE": (SYMLINK, b"legal/MIT.txt")})
    assert (report["practices"]["license"], report["license"]) == ("LICENSE", "MIT")


@pytest.mark.parametrize("target", [b"docs/LICENSE", b"../LICENSE", b"/etc/passwd", b"LICENSE", b"src", b"README.md/x"])
def test_link_that_leads_nowhere_is_an_unknown_licence(target: bytes, tmp_path: Path) -> None:
    files = {b"src/a": b"1\n", b"README.md": b"1\n", b"COPYING": MIT}
    report = report_for(tmp_path, files, others={b"LICENSE": (SYMLINK, target)})
    assert (report["practices"]["license"], report["license"]) == ("COPYING", "MIT")


def test_many_paths_take_little_time() -> None:
    begin = time.process_time()
    found_in(*(f"src/module{number}/{'deep/' * 20}file_{number}.py" for number in range(5_000)))
    assert time.process_time() - begin < 2


@pytest.mark.parametrize("word", [b"go ", b"make ", b"npm run ", b"npm -a ", b"cargo", b"test", b" "])
def test_hostile_ci_file_takes_little_time(word: bytes) -> None:
    begin = time.process_time()
    assert best_ci_file({b".travis.yml": word * (MAX_CI_BYTES // len(word))}) == b".travis.yml"
    assert time.process_time() - begin < 2


def test_files_of_tests_and_ci_are_counted_if_they_are_the_projects_own(tmp_path: Path) -> None:
    paths = ["tests/test_a.py", "src/b_test.go", "vendor/c_test.go", "README.md", "tests/data.json"]
    files = {path.encode(): b"1\n" for path in paths}
    for name, text in {"tests": b"run: make test\n", "lock": b"uses: dessant/lock-threads@v5\n", "build": b"run: make\n"}.items():
        files[b".github/workflows/%b.yml" % name.encode()] = text
    report = report_of(GitRepository(build(tmp_path / "x.git", [Commit(ago(1), files=files)])), NOW, lambda *_: None)
    assert report["practice_files"] == {"tests": 2, "ci": 2}
