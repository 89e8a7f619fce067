"""The files at the head of the repository: how many, in which languages, and which of them are signs of good practice."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field

from app.analysis.git import Repository
from app.analysis.history import records
from app.analysis.languages import language_of
from app.analysis.text import readable

SYMLINK, SUBMODULE = b"120000", b"160000"
LARGEST_TEXT = "64m"  # larger files count as binary

_CODE = r"(\.(md|markdown|rst|txt|adoc|asciidoc|org|html|rdoc|pod))?"
_FORGE = r"(?:|\.github/|\.gitlab/|\.gitea/|docs?/)"

# In the order of the report. Of several matches the shortest path counts.
PRACTICES = {
    "readme": rf"(?i:{_FORGE}readme(\.[a-z-]{{2,6}})?{_CODE})",
    "license": rf"(?i:(?:licen[cs]es?/|)(un)?(licen[cs]e|copying|copyright)([-_.][\w.+-]+)?{_CODE})",
    "contributing": rf"(?i:{_FORGE}(contributing|contribute|hacking){_CODE})",
    "code_of_conduct": rf"(?i:{_FORGE}code[-_ ]?of[-_ ]?conduct{_CODE})",
    "security": rf"(?i:{_FORGE}security{_CODE})",
    "changelog": rf"(?i:{_FORGE}(changelog|changes|history|news|releases?([-_ ]?notes)?|relnotes){_CODE})",
    "tests": r"(?i:(.*/)?(tests?|specs?|__tests__|testing|t)/.+|(.*/)?(test_[^/]+|[^/]+[._-](test|spec))\.\w+)",
    "ci": r"\.github/workflows/[^/]+\.ya?ml|\.gitlab-ci\.yml|\.travis\.yml|\.circleci/config\.ya?ml|azure-pipelines\.yml"
    r"|\.?appveyor\.yml|Jenkinsfile|\.cirrus\.yml|\.drone\.yml|\.woodpecker(\.ya?ml|/.+)|bitbucket-pipelines\.yml"
    r"|\.buildkite/.+|\.gitea/workflows/.+|\.forgejo/workflows/.+|\.builds?(\.yml|/.+)|\.ci/.+|tox\.ini",
    "dependencies": r"pyproject\.toml|setup\.(py|cfg)|requirements([-_.][\w.-]+)?\.(txt|in)|requirements/.+\.(txt|in)|Pipfile"
    r"|environment\.ya?ml|package\.json|Cargo\.toml|go\.mod|Gemfile|[\w.-]+\.gemspec|pom\.xml|build\.gradle(\.kts)?"
    r"|composer\.json|mix\.exs|rebar\.config|Package\.swift|pubspec\.yaml|[\w./-]+\.(csproj|fsproj|cabal)|stack\.yaml"
    r"|CMakeLists\.txt|configure\.ac|meson\.build|vcpkg\.json|conanfile\.(py|txt)|deps\.edn|project\.clj|DESCRIPTION"
    r"|build\.sbt|Project\.toml|build\.zig\.zon|flake\.nix|Makefile\.PL|cpanfile|dune-project",
    "lock_file": r"(.*/)?(package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lockb?|poetry\.lock|uv\.lock"
    r"|pdm\.lock|Pipfile\.lock|Cargo\.lock|go\.sum|Gemfile\.lock|composer\.lock|mix\.lock|pubspec\.lock|Package\.resolved"
    r"|packages\.lock\.json|gradle\.lockfile|flake\.lock|stack\.yaml\.lock|deno\.lock|Manifest\.toml|pixi\.lock)"
    r"|requirements([-_.][\w.-]+)?\.lock",
    "linter": r"(.*/)?\.?ruff\.toml|\.flake8|\.?pylintrc|\.pre-commit-config\.ya?ml|\.?mypy\.ini"
    r"|\.eslintrc(\.\w+)?|eslint\.config\.\w+|\.?biome\.jsonc?|\.prettierrc(\.\w+)?|prettier\.config\.\w+|\.?tslint\.json"
    r"|\.?rustfmt\.toml|\.?clippy\.toml|\.golangci\.(ya?ml|toml|json)|\.rubocop\.yml|\.clang-(format|tidy)|\.stylelintrc(\.\w+)?"
    r"|\.php-cs-fixer(\.dist)?\.php|phpstan(\.dist)?\.neon|phpcs\.xml(\.dist)?|\.editorconfig|checkstyle\.xml|\.scalafmt\.conf"
    r"|detekt\.yml|\.swiftlint\.yml|\.credo\.exs|\.formatter\.exs|analysis_options\.yaml|\.shellcheckrc|\.yamllint(\.ya?ml)?"
    r"|\.perltidyrc|\.perlcriticrc|\.jshintrc|\.xo-config\.\w+|\.standard\.yml|\.hlint\.yaml",
}
_PATTERNS = {name: re.compile(pattern) for name, pattern in PRACTICES.items()}
MAX_PATH_BYTES = 300  # of a path that can be a sign of anything


@dataclass
class Files:
    count: int = 0
    practices: dict[str, bytes | None] = field(default_factory=lambda: dict.fromkeys(PRACTICES))
    without_lines: set[bytes] = field(default_factory=set)  # symbolic links and submodules


def files(repository: Repository) -> Files:
    """Everything that is tracked."""
    found = Files()
    with repository.stream("ls-tree", "-r", "-z", "HEAD") as output:
        for record in records(output):
            about, _, path = record.partition(b"\t")
            found.count += 1
            if about.startswith((SYMLINK, SUBMODULE)):
                found.without_lines.add(path)
            if not about.startswith(SUBMODULE) and len(path) <= MAX_PATH_BYTES:
                _notice(found.practices, path)
    return found


def _notice(practices: dict[str, bytes | None], path: bytes) -> None:
    text = path.decode(errors="replace")
    for name, pattern in _PATTERNS.items():
        known = practices[name]
        if (known is None or (len(path), path) < (len(known), known)) and pattern.fullmatch(text):
            practices[name] = path


def languages(repository: Repository, found: Files, tick: Callable[[int], None]) -> dict[str, int]:
    """Lines of text by language, most first. What git takes for binary has none, and neither have files of an unknown kind."""
    lines: Counter[str] = Counter()
    empty_tree = repository.output("hash-object", "-t", "tree", "/dev/null").decode().strip()
    options = ("-r", "-z", "--numstat", "--no-renames", "--no-ext-diff", "--no-textconv")
    with repository.stream("-c", f"core.bigFileThreshold={LARGEST_TEXT}", "diff-tree", *options, empty_tree, "HEAD") as output:
        for number, record in enumerate(records(output), 1):
            added, _, path = record.split(b"\t", 2)
            language = language_of(readable(path)) if added != b"-" and path not in found.without_lines else None
            if language and int(added):
                lines[language] += int(added)
            tick(number)
    return dict(sorted(lines.items(), key=lambda item: (-item[1], item[0])))
