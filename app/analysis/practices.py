"""Finds files that indicate good practice, and the licences. `docs/analysis.md` describes the rules."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from app.analysis import licenses, practice_patterns
from app.analysis.git import GitRepository
from app.analysis.licenses import Licenses
from app.analysis.linguist.paths import is_vendored
from app.analysis.texts import read_texts

MAX_PATH_BYTES = 300  # longer paths are ignored
MAX_CI_FILES = 40  # that are read
MAX_CI_BYTES = 64 * 1024  # of one file

# In the order of the report
PRACTICES = (
    *("readme", "license", "contributing", "code_of_conduct", "security", "changelog"),
    *("tests", "ci", "dependencies", "lock_file", "linter"),
)
_ROOT_PATTERNS = {name: re.compile(pattern) for name, pattern in practice_patterns.ROOT_PATTERNS.items()}
_PATH_PATTERNS = {name: re.compile(pattern) for name, pattern in practice_patterns.PATH_PATTERNS.items()}
_NAME_PATTERNS = {name: re.compile(pattern) for name, pattern in practice_patterns.NAME_PATTERNS.items()}
_FOREIGN_FOLDERS = re.compile(practice_patterns.FOREIGN_FOLDERS, re.IGNORECASE)
_AUXILIARY_FOLDERS = re.compile(practice_patterns.AUXILIARY_FOLDERS, re.IGNORECASE)
_TEST_TOOLS = re.compile(practice_patterns.TEST_TOOLS, re.IGNORECASE)
_TEST_COMMAND = re.compile(practice_patterns.TEST_COMMAND.encode(), re.IGNORECASE)
_HOUSEKEEPING = re.compile(practice_patterns.HOUSEKEEPING.encode(), re.IGNORECASE)
_CI_NAME = re.compile(rb"\b(tests?|ci|build|main|check)\b|tests?", re.IGNORECASE)

# Files with other purposes that can also configure a linter.
LINTER_SECTIONS = {
    b"pyproject.toml": re.compile(rb"^\[tool\.(ruff|pylint|flake8|mypy|pyright|basedpyright|black|isort|bandit)\b", re.MULTILINE),
    b"setup.cfg": re.compile(rb"^\[(flake8|pycodestyle|mypy|pylint\b.*|isort)\]", re.MULTILINE),
    b"tox.ini": re.compile(rb"^\[(flake8|pycodestyle|mypy|pylint\b.*|isort)\]", re.MULTILINE),
    b"Cargo.toml": re.compile(rb"^\[(workspace\.)?lints\b", re.MULTILINE),
    b"package.json": re.compile(rb'^\s{0,8}"(eslintConfig|standard|xo|prettier|jshintConfig|stylelint)"\s*:', re.MULTILINE),
}


Practices = dict[str, bytes | None]


def no_practices() -> Practices:
    return dict.fromkeys(PRACTICES)


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
        self.test_files += _is_test(path, text)
        if _ROOT_PATTERNS["ci"].fullmatch(text):
            self.ci_files.append(path)
        if path in LINTER_SECTIONS:
            self.linter_files.append(path)
        if "\ufffd" not in text and licenses.role_of(text):
            self.license_files.append(text)

    def _record(self, path: bytes, text: str) -> None:
        """Enter the path for each practice that it indicates, unless a better path is known."""
        name = text.rpartition("/")[2]
        for patterns, subject in ((_ROOT_PATTERNS, text), (_NAME_PATTERNS, name), (_PATH_PATTERNS, text)):
            for practice, pattern in patterns.items():
                known = self.practices[practice]
                is_better = known is None or _order(path) < _order(known)
                if is_better and pattern.fullmatch(subject) and (patterns is _ROOT_PATTERNS or _is_own(practice, path, text)):
                    self.practices[practice] = path

    def read(self, repository: GitRepository, head: str) -> tuple[Practices, dict[str, int], Licenses]:
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
            "ci": best_ci_file(ci_texts),
            "linter": self.practices["linter"] or linter_section({path: texts.get(path, b"") for path in self.linter_files}),
        }
        return practices, {"tests": self.test_files, "ci": len(own_ci_files(ci_texts))}, found


def _order(path: bytes) -> tuple[int, bytes]:
    """Return the sort key by which the shortest path is reported, and of equally long ones the first."""
    return len(path), path


def _is_own(practice: str, path: bytes, text: str) -> bool:
    """Return False for files of other projects, and for those that serve another purpose."""
    purpose = _TEST_TOOLS if practice == "tests" else _AUXILIARY_FOLDERS
    return not (_FOREIGN_FOLDERS.fullmatch(text) or purpose.fullmatch(text) or is_vendored(path))


def _is_test(path: bytes, text: str) -> bool:
    is_match = _NAME_PATTERNS["tests"].fullmatch(text.rpartition("/")[2]) or _PATH_PATTERNS["tests"].fullmatch(text)
    return bool(is_match) and _is_own("tests", path, text)


def own_ci_files(texts: Mapping[bytes, bytes]) -> list[bytes]:
    """Return the paths of files that run tests, or do more than housekeeping."""
    return [path for path, text in texts.items() if _TEST_COMMAND.search(text) or not _HOUSEKEEPING.search(text)]


def best_ci_file(texts: Mapping[bytes, bytes]) -> bytes | None:
    """Return the path of the file that runs the tests, else the one that most likely builds the project."""

    def order(path: bytes) -> tuple[bool, bool, tuple[int, bytes]]:
        return not _TEST_COMMAND.search(texts[path]), not _CI_NAME.search(path.rpartition(b"/")[2]), _order(path)

    return min(own_ci_files(texts), key=order, default=None)


def linter_section(texts: Mapping[bytes, bytes]) -> bytes | None:
    """Return the first file that configures a linter in one of its sections."""
    return next((path for path, section in LINTER_SECTIONS.items() if section.search(texts.get(path, b""))), None)
