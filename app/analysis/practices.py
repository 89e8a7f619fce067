"""Finds files that indicate good practice, and the licences. `docs/analysis.md` describes the rules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, lru_cache

from app.analysis import licenses
from app.analysis.git import GitRepository
from app.analysis.licenses import Licenses
from app.analysis.linguist.paths import is_vendored
from app.analysis.practice_patterns import (
    AUXILIARY_FOLDERS,
    FOREIGN_FOLDERS,
    HOUSEKEEPING,
    INLINE_TESTS,
    NAME_PATTERNS,
    PATH_PATTERNS,
    POSSIBLE_TEST,
    ROOT_PATTERNS,
    TEST_COMMAND,
    TEST_NAME,
    TEST_PATH,
    TEST_TOOLS,
)
from app.analysis.texts import read_texts

MAX_PATH_BYTES = 300  # longer paths are ignored
MAX_COLLECTED = 10_000  # paths of each kind that are held
MAX_CI_FILES = 40  # that are read
MAX_CI_BYTES = 64 * 1024  # of one file

# In the order of the report
PRACTICES = (
    *("readme", "license", "contributing", "code_of_conduct", "security", "changelog"),
    *("tests", "ci", "dependencies", "lock_file", "linter"),
)
_COMMENT = re.compile(rb"(?:^|(?<=\s))#.*", re.MULTILINE)
_CI_NAME = re.compile(rb"test|\b(ci|build|main|check)\b", re.IGNORECASE)

# Files with other purposes that can also configure a linter.
LINTER_SECTIONS = {
    b"pyproject.toml": re.compile(rb"^\[tool\.(ruff|pylint|flake8|mypy|pyright|basedpyright|black|isort|bandit)\b", re.MULTILINE),
    b"setup.cfg": re.compile(rb"^\[(flake8|pycodestyle|mypy|pylint\b.*|isort)\]", re.MULTILINE),
    b"tox.ini": re.compile(rb"^\[(flake8|pycodestyle|mypy|pylint\b.*|isort)\]", re.MULTILINE),
    b"Cargo.toml": re.compile(rb"^\[(workspace\.)?lints\b", re.MULTILINE),
    b"package.json": re.compile(rb'^\s{0,8}"(eslintConfig|standard|xo|prettier|jshintConfig|stylelint)"\s*:', re.MULTILINE),
}


Practices = dict[str, bytes | None]


@cache
def _compile(pattern: str) -> re.Pattern[str]:
    """Compile a pattern at its first use, since the process of an analysis should begin at once."""
    return re.compile(pattern)


@cache
def _compile_for_bytes(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode())


def no_practices() -> Practices:
    return dict.fromkeys(PRACTICES)


@dataclass
class InlineTests:
    """The files that have tests beside other code, as is usual in some languages: their number, and the path that is reported."""

    count: int = 0
    path: bytes | None = None

    def add(self, path: bytes, language: str, content: bytes) -> None:
        """Count the file unless its path is already one of tests."""
        pattern = INLINE_TESTS.get(language)
        if pattern is None or not _compile_for_bytes(pattern).search(content):
            return
        text = path.decode(errors="replace")
        if not _is_test(text) and _is_own(path, text, TEST_TOOLS):
            self.count += 1
            self.path = min(filter(None, (self.path, path)), key=_order)


@dataclass
class IndicatorFiles:
    """The paths of a tree that say something about practices and licences. `add` gets each path, then `read` reads some files."""

    practices: Practices = field(default_factory=no_practices)
    license_files: list[str] = field(default_factory=list)
    ci_files: list[bytes] = field(default_factory=list)
    linter_files: list[bytes] = field(default_factory=list)
    test_files: int = 0

    def add(self, path: bytes) -> None:
        if len(path) > MAX_PATH_BYTES or b"\n" in path:
            return
        text = path.decode(errors="replace")
        self._record(path, text)
        self._record_test(path, text)
        if len(self.ci_files) < MAX_COLLECTED and _compile(ROOT_PATTERNS["ci"]).fullmatch(text):
            self.ci_files.append(path)
        if path in LINTER_SECTIONS:
            self.linter_files.append(path)
        if len(self.license_files) < MAX_COLLECTED and "\ufffd" not in text and licenses.role_of(text):
            self.license_files.append(text)

    def _record(self, path: bytes, text: str) -> None:
        """Enter the path for each practice that it indicates, unless a better path is known."""
        name = text.rpartition("/")[2]
        for patterns, subject in ((ROOT_PATTERNS, text), (NAME_PATTERNS, name), (PATH_PATTERNS, text)):
            for practice, pattern in patterns.items():
                if not self._is_better(practice, path) or not _compile(pattern).fullmatch(subject):
                    continue
                if patterns is ROOT_PATTERNS or _is_own(path, text, AUXILIARY_FOLDERS):
                    self.practices[practice] = path

    def _record_test(self, path: bytes, text: str) -> None:
        if _is_test(text) and _is_own(path, text, TEST_TOOLS):
            self.test_files += 1
            known = self.practices["tests"]
            self.practices["tests"] = path if known is None else min(known, path, key=_test_order)

    def _is_better(self, practice: str, path: bytes) -> bool:
        known = self.practices[practice]
        return known is None or _order(path) < _order(known)

    def read(self, repository: GitRepository, head: str, inline: InlineTests) -> tuple[Practices, dict[str, int], Licenses]:
        """Read the files whose content matters. Return practices, numbers of their files, and licences. Raises GitError."""
        license_paths = sorted(self.license_files, key=licenses.preference)[: licenses.MAX_FILES]
        ci_paths = sorted(self.ci_files, key=_order)[:MAX_CI_FILES]
        wanted = [*(path.encode() for path in license_paths), *ci_paths, *self.linter_files]
        texts = read_texts(repository, head, wanted)
        found = licenses.combine({path: texts.get(path.encode(), b"") for path in license_paths})
        ci_texts = {path: texts.get(path, b"")[:MAX_CI_BYTES] for path in ci_paths}
        practices = {
            **self.practices,
            "license": found.path.encode() if found.path else None,
            "tests": self.practices["tests"] or inline.path,
            "ci": best_ci_file(ci_texts),
            "linter": self.practices["linter"] or linter_section({path: texts.get(path, b"") for path in self.linter_files}),
        }
        return practices, {"tests": self.test_files + inline.count, "ci": len(own_ci_files(ci_texts))}, found


def _order(path: bytes) -> tuple[int, bytes]:
    """Return the sort key by which the shortest path is reported, and of equally long ones the first."""
    return len(path), path


def _test_order(path: bytes) -> tuple[bool, tuple[int, bytes]]:
    """Return the sort key by which a path named like a test is preferred to the others in a folder of tests."""
    name = path.rpartition(b"/")[2].decode(errors="replace")
    return not _compile(TEST_NAME).fullmatch(name), _order(path)


def _is_test(path: str) -> bool:
    if not _compile(POSSIBLE_TEST).search(path):  # fast, unlike the exact patterns
        return False
    return bool(_compile(TEST_NAME).fullmatch(path.rpartition("/")[2]) or _compile(TEST_PATH).fullmatch(path))


def _is_own(path: bytes, text: str, auxiliary: str) -> bool:
    """Return False for files of other projects, and for those that serve another purpose."""
    return not any(_compile(pattern).fullmatch(text) for pattern in (FOREIGN_FOLDERS, auxiliary)) and not is_vendored(path)


def own_ci_files(texts: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the paths of files that run tests, or do more than housekeeping."""
    return [path for path, text in texts.items() if _runs_tests(text) or not _compile_for_bytes(HOUSEKEEPING).search(text)]


def best_ci_file(texts: Mapping[bytes, bytes]) -> bytes | None:
    """Return the path of the file that runs the tests, else the one that most likely builds the project."""

    def order(path: bytes) -> tuple[bool, bool, tuple[int, bytes]]:
        return not _runs_tests(texts[path]), not _CI_NAME.search(path.rpartition(b"/")[2]), _order(path)

    return min(own_ci_files(texts), key=order, default=None)


@lru_cache(maxsize=MAX_CI_FILES)
def _runs_tests(text: bytes) -> bool:
    return bool(_compile_for_bytes(TEST_COMMAND).search(_COMMENT.sub(b"", text)))


def linter_section(texts: Mapping[bytes, bytes]) -> bytes | None:
    """Return the first file that configures a linter in one of its sections."""
    return next((path for path, section in LINTER_SECTIONS.items() if section.search(texts.get(path, b""))), None)
