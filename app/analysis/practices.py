"""Recognises files that indicate good practice by their paths. `docs/analysis.md` describes the rules."""

import re

MAX_PATH_BYTES = 300  # longer paths are ignored

_TEXT = r"(\.(md|markdown|mkd|rst|txt|adoc|asciidoc|org|html|rdoc|pod|textile))?"
_FOLDERS = r"(|\.github/|\.gitlab/|\.gitea/|docs?/)"
_ROOT_OR_SUBFOLDER = r"([^/]+/)?"


def _one_of(*patterns: str) -> str:
    return "|".join(patterns)


# In the order of the report. Of several matching paths the shortest one is reported, and of equally long ones the first.
PATTERNS = {
    "readme": rf"(?i:{_FOLDERS}readme([._][a-z]{{2}}([-_][a-z]{{2,4}})?)?{_TEXT})",
    "license": rf"(?i:(un)?(licen[cs]e|copying|copyright)(s?[-_.][\w.+-]+)?{_TEXT}|licenses/[\w.+-]+\.txt)",
    "contributing": rf"(?i:{_FOLDERS}(contributing|contribute|hacking){_TEXT})",
    "code_of_conduct": rf"(?i:{_FOLDERS}code[-_ ]?of[-_ ]?conduct{_TEXT})",
    "security": rf"(?i:{_FOLDERS}security{_TEXT})",
    "changelog": rf"(?i:{_FOLDERS}(change[-_]?log|changes|history|news|release[-_ ]?notes|relnotes){_TEXT})",
    "tests": r"(?i:(.*/)?(tests?|specs?|__tests__|testing|t)/.+|(.*/)?(test_[^/]+|[^/]+[._-](test|tests|spec))\.\w+)",
    "ci": _one_of(
        r"\.(github|gitea|forgejo)/workflows/[^/]+\.ya?ml",
        r"\.gitlab-ci\.ya?ml|\.travis\.yml|\.circleci/config\.ya?ml|\.?azure-pipelines\.ya?ml|\.?appveyor\.yml|Jenkinsfile",
        r"\.cirrus\.yml|\.drone\.yml|\.woodpecker(\.ya?ml|/.+\.ya?ml)|bitbucket-pipelines\.yml|\.buildkite/.+\.ya?ml",
        r"\.build\.yml|\.builds/.+\.yml|\.semaphore/.+\.yml|\.zuul\.ya?ml|cloudbuild\.ya?ml",
    ),
    "dependencies": _ROOT_OR_SUBFOLDER + "(" + _one_of(
        r"pyproject\.toml|setup\.(py|cfg)|requirements([-_.][\w.-]+)?\.(txt|in)|Pipfile|environment\.ya?ml|pixi\.toml",
        r"package\.json|deno\.jsonc?|Cargo\.toml|go\.mod|Gemfile|[\w.-]+\.gemspec|composer\.json",
        r"pom\.xml|build\.gradle(\.kts)?|build\.sbt|deps\.edn|project\.clj|[\w.-]+\.(csproj|fsproj|vbproj)|paket\.dependencies",
        r"mix\.exs|rebar\.config|Package\.swift|Podfile|Cartfile|pubspec\.yaml|[\w.-]+\.(cabal|opam|nimble|rockspec)|stack\.yaml",
        r"CMakeLists\.txt|configure\.ac|meson\.build|vcpkg\.json|conanfile\.(py|txt)|MODULE\.bazel|WORKSPACE(\.bazel)?",
        r"DESCRIPTION|Project\.toml|build\.zig\.zon|flake\.nix|Makefile\.PL|cpanfile|dune-project|shard\.yml|dub\.(json|sdl)",
    ) + ")",
    "lock_file": _ROOT_OR_SUBFOLDER + "(" + _one_of(
        r"package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lockb?|deno\.lock|composer\.lock",
        r"poetry\.lock|uv\.lock|pdm\.lock|pylock\.toml|Pipfile\.lock|pixi\.lock|conda-lock\.yml",
        r"Cargo\.lock|go\.sum|Gemfile\.lock|mix\.lock|rebar\.lock|pubspec\.lock|Package\.resolved|Podfile\.lock|packages\.lock\.json",
        r"gradle\.lockfile|flake\.lock|stack\.yaml\.lock|cabal\.project\.freeze|Manifest\.toml|shard\.lock|MODULE\.bazel\.lock",
    ) + ")",
    "linter": _ROOT_OR_SUBFOLDER + "(" + _one_of(
        r"\.?ruff\.toml|\.flake8|\.?pylintrc|\.?mypy\.ini|pyrightconfig\.json|\.bandit|\.pre-commit-config\.ya?ml",
        r"\.eslintrc(\.\w+)?|eslint\.config\.\w+|\.?biome\.jsonc?|\.?oxlintrc\.json|tslint\.json|\.jshintrc|\.prettierrc(\.\w+)?",
        r"prettier\.config\.\w+|\.stylelintrc(\.\w+)?|stylelint\.config\.\w+|\.?rustfmt\.toml|\.?clippy\.toml",
        r"\.golangci\.(ya?ml|toml|json)|\.rubocop\.yml|\.standard\.yml|\.clang-(format|tidy)|\.swiftlint\.yml|\.scalafmt\.conf",
        r"\.?php-cs-fixer(\.dist)?\.php|\.php-cs-fixer(\.dist)?\.php|phpstan(\.dist)?\.neon(\.dist)?|\.?phpcs\.xml(\.dist)?",
        r"checkstyle\.xml|detekt\.ya?ml|\.credo\.exs|\.formatter\.exs|analysis_options\.yaml|\.shellcheckrc|\.yamllint(\.ya?ml)?",
        r"\.perltidyrc|\.perlcriticrc|\.hlint\.yaml|\.luacheckrc|stylua\.toml|\.lintr|\.editorconfig-checker\.json",
    ) + ")",
}  # fmt: skip
_PATTERNS = {name: re.compile(pattern) for name, pattern in PATTERNS.items()}

# Files with other purposes that can also configure a linter.
LINTER_SECTIONS = {
    b"pyproject.toml": re.compile(rb"^\[tool\.(ruff|pylint|flake8|mypy|pyright|basedpyright|black|isort|bandit)\b", re.MULTILINE),
    b"setup.cfg": re.compile(rb"^\[(flake8|pycodestyle|mypy|pylint\b.*|isort)\]", re.MULTILINE),
    b"tox.ini": re.compile(rb"^\[(flake8|pycodestyle|mypy|pylint\b.*|isort)\]", re.MULTILINE),
    b"package.json": re.compile(rb'^\s{0,8}"(eslintConfig|standard|xo|prettier|jshintConfig|stylelint)"\s*:', re.MULTILINE),
}


def no_practices() -> dict[str, bytes | None]:
    return dict.fromkeys(PATTERNS)


def record_path(found: dict[str, bytes | None], path: bytes) -> None:
    """Add the path to each practice that it indicates, unless `found` has a better path already."""
    if len(path) > MAX_PATH_BYTES:
        return
    text = path.decode(errors="replace")
    for name, pattern in _PATTERNS.items():
        known = found[name]
        if (known is None or (len(path), path) < (len(known), known)) and pattern.fullmatch(text):
            found[name] = path
