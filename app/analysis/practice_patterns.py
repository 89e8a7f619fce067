"""The patterns of files that indicate good practice, by their names in many ecosystems. `practices.py` applies them."""

_TEXT = r"(\.(md|markdown|mkd|rst|txt|adoc|asciidoc|org|html|rdoc|pod|textile))?"
_FOLDERS = r"(|\.github/|\.gitlab/|\.gitea/|docs?/|Documentation/)"


def _one_of(*patterns: str) -> str:
    return "|".join(patterns)


_CODE = "(" + _one_of(
    r"pyx?|[cm]?[jt]sx?|rb|go|rs|java|kts?|scala|groovy|swift|mm?|c|cc|cpp|cxx|hh?|hpp|cs|fs|vb|php|phpt|pl|pm|t|lua|moon|fnl|tcl|exp",
    r"sh|bash|zsh|fish|bats|ps1|exs?|[eh]rl|l?hs|mli?|clj[cs]?|edn|el|lisp|scm|rkt|jl|r|dart|nim|cr|d|zig|v|sv|vhdl?|f\d\d|f|pas|ad[bs]",
    r"sql|feature|robot|coffee|elm|purs|vue|svelte|s|asm|cu|hx|vim|sol|ipynb|tst|test|gleam|hcl|nix|py3|awk|gd|ml|res",
) + ")"  # fmt: skip
_TEST_FOLDER = "(" + _one_of(
    r"(?i:tests?|__tests?__|unit-?_?tests?|integration-?_?tests?|functional-?_?tests?|e2e|end-to-end|test-?_?(suites?|cases?)|"
    r"self-?_?tests?|regress|cypress|playwright|autotests?|testdir|tests?[._-](unit|integration|e2e|functional|all)|testthat)",
    r"[\w.-]*[A-Za-z0-9]Tests?|[\w.-]+[._-][Tt]ests?|androidTest",
) + ")"  # fmt: skip
# Patterns of the names of test files
TEST_NAME = "(" + _one_of(
    rf"(?i:(run-?_?)?tests?\.(?!(java|kts?|cs|exs?|scala|swift|groovy)$){_CODE})",
    rf"((?i:tests?)[_-].+|.+[._-](?i:tests?|unittests?|e2e|spec)|.+\.cy|.+_SUITE)\.(?i:{_CODE})",
    rf"(Test[A-Z]\w*|\w*[A-Za-z0-9](Tests?|TestCase))\.(?i:{_CODE})|\w*[a-z0-9]Spec\.(hs|scala|groovy|purs|kt|swift|[jt]sx?|mm?|php)",
    r".+\.(bats|phpt|feature|robot|t\.sol)|test[A-Z]\w*\.m|\w*[a-z0-9]IT\.java",
) + ")"  # fmt: skip

# Patterns of the paths of test files
TEST_PATH = _one_of(
    rf"(.*/)?{_TEST_FOLDER}/(.*/)?[^/]+\.(?i:{_CODE})",
    r"(.*/)?(?i:specs?)/(.*/)?[^/]+\.(rb|coffee|cr|lua|moon|php|[cm]?[jt]sx?)|(.*/)?t/(.*/)?[^/]+\.(t|sh|pl|py)",
)
# A cheap first check: every path that matches one of the two patterns above contains this
POSSIBLE_TEST = (
    r"(?i)test|spec|e2e|end-to-end|regress|cypress|playwright|\bt/|IT\.java|\.(bats|phpt|feature|robot|cy\.)|t\.sol|_suite"
)

# Patterns of whole paths, which count wherever they are
ROOT_PATTERNS = {
    "readme": rf"(?i:{_FOLDERS}readme([._][a-z]{{2}}([-_][a-z]{{2,4}})?)?{_TEXT})",
    "contributing": rf"(?i:{_FOLDERS}(contributing|contribute|hacking){_TEXT})",
    "code_of_conduct": rf"(?i:{_FOLDERS}code[-_ ]?of[-_ ]?conduct{_TEXT})",
    "security": rf"(?i:{_FOLDERS}security([-_ ]policy)?{_TEXT})",
    "changelog": _one_of(
        rf"(?i:{_FOLDERS}(00-)?(change[-_ ]?logs?|changes|history|news|release[-_ ]?notes|relnotes|what'?s[-_ ]?new){_TEXT})",
        rf"(?i:{_FOLDERS}(change[-_]?logs?|release[-_]?notes|relnotes|whatsnew)/[^/]+\.(md|rst|txt|adoc))",
    ),
    "ci": _one_of(
        r"\.(github|gitea|forgejo)/workflows/[^/]+\.ya?ml|\.gitlab-ci\.ya?ml|\.gitlab/ci/.+\.ya?ml|\.travis\.ya?ml|\.circleci/config\.ya?ml",
        r"\.?azure-pipelines\.ya?ml|\.?azure-pipelines/.+\.ya?ml|\.?appveyor\.ya?ml|(\.?jenkins/|\.?ci/)?Jenkinsfile(\.[\w-]+)?",
        r"\.cirrus\.(yml|star)|\.drone\.ya?ml|\.woodpecker(\.ya?ml|/.+\.ya?ml)|bitbucket-pipelines\.yml|\.buildkite/.+\.ya?ml",
        r"\.build\.yml|\.builds/.+\.yml|\.semaphore/.+\.yml|\.?zuul(\.d/.+)?\.ya?ml|cloudbuild\.ya?ml|\.tekton/.+\.ya?ml|codemagic\.yaml",
        r"bitrise\.yml|wercker\.yml|\.teamcity/.+|\.packit\.ya?ml|\.evergreen\.ya?ml",
    ),
    "linter": r"\.github/linters/.+|\.trunk/trunk\.ya?ml",
}  # fmt: skip
# Names of requirement files that serve only the documentation or a spelling check
_NO_DEPENDENCIES = r"(?i:([\w.-]+[-_.])?(docs?|mkdocs|sphinx|rtd|readthedocs|codespell|spell(ing|check)?)[-_.])"
# Patterns of whole paths. Like the names below, they count only outside of the excluded folders.
PATH_PATTERNS = {"dependencies": rf"(.*/)?requirements/(?!{_NO_DEPENDENCIES})[^/]+\.(txt|in)"}
# Patterns of file names
NAME_PATTERNS = {
    "dependencies": _one_of(
        rf"pyproject\.toml|setup\.(py|cfg)|(?!{_NO_DEPENDENCIES})([\w-]+[-_])?requirements([-_.][\w.-]+)?\.(txt|in)|Pipfile",
        r"environment\.ya?ml|pixi\.toml|package\.json|deno\.jsonc?|Cargo\.toml|go\.mod|Gopkg\.toml|Gemfile|gems\.rb",
        r"[\w.-]+\.gemspec|composer\.json|pom\.xml|build\.gradle(\.kts)?|libs\.versions\.toml|ivy\.xml|build\.s(bt|c)|deps\.edn|project\.clj",
        r"[\w.-]+\.(cs|fs|vb)proj|packages\.config|Directory\.Packages\.props|paket\.dependencies|mix\.exs|rebar\.config|gleam\.toml",
        r"Package\.swift|Podfile|[\w.+-]+\.podspec|Cartfile|pubspec\.yaml|[\w.-]+\.(cabal|opam|nimble|rockspec)|package\.yaml|stack\.yaml",
        r"CMakeLists\.txt|configure\.(ac|in)|meson\.build|vcpkg\.json|conanfile\.(py|txt)|xmake\.lua|MODULE\.bazel|WORKSPACE(\.bazel)?",
        r"DESCRIPTION|Project\.toml|build\.zig\.zon|flake\.nix|Makefile\.PL|Build\.PL|dist\.ini|cpanfile|META6\.json|dune-project|opam|bower\.json",
        r"shard\.yml|dub\.(json|sdl)|elm\.json|spago\.(dhall|yaml)|fpm\.toml|alire\.toml|info\.rkt|Eask|Cask|Chart\.yaml|foundry\.toml",
    ),
    "lock_file": _one_of(
        r"package-lock\.json|npm-shrinkwrap\.json|yarn\.lock|pnpm-lock\.yaml|bun\.lockb?|deno\.lock|composer\.lock",
        r"poetry\.lock|uv\.lock|pdm\.lock|pylock(\.[\w-]+)?\.toml|Pipfile\.lock|pixi\.lock|conda-lock\.yml",
        r"Cargo\.lock|go\.sum|Gopkg\.lock|Gemfile\.lock|gems\.locked|mix\.lock|rebar\.lock|pubspec\.lock|Package\.resolved",
        r"Podfile\.lock|Cartfile\.resolved|packages\.lock\.json|paket\.lock|gradle\.lockfile|flake\.lock|stack\.yaml\.lock",
        r"cabal\.project\.freeze|Manifest\.toml|shard\.lock|MODULE\.bazel\.lock|Chart\.lock|conan\.lock|renv\.lock|dub\.selections\.json",
    ),
    "linter": _one_of(
        r"\.?ruff\.toml|\.flake8|\.?pylintrc(\.toml)?|\.?mypy\.ini|pyrightconfig\.json|\.bandit|\.isort\.cfg|\.style\.yapf",
        r"\.pre-commit-config\.ya?ml|\.?lefthook\.ya?ml|\.eslintrc(\.\w+)?|eslint\.config\.\w+|\.?biome\.jsonc?|\.?oxlintrc\.json",
        r"tslint\.json|\.jshintrc|\.jscsrc|\.?coffeelint\.json|\.prettierrc(\.\w+)?|prettier\.config\.\w+|\.?dprint\.jsonc?",
        r"\.stylelintrc(\.\w+)?|stylelint\.config\.\w+|\.?rustfmt\.toml|\.?clippy\.toml|\.golangci\.(ya?ml|toml|json)",
        r"\.rubocop\.yml|\.standard\.yml|[._]clang-(format|tidy)|\.clang-tidy\.ya?ml|\.?uncrustify\.cfg|\.astylerc|\.swiftlint\.yml",
        r"\.swiftformat|\.scalafmt\.conf|\.scalafix\.conf|\.?php-cs-fixer(\.dist)?\.php|\.php_cs(\.dist)?|phpstan(\.dist)?\.neon(\.dist)?",
        r"psalm\.xml(\.dist)?|pint\.json|ecs\.php|\.?phpcs\.xml(\.dist)?|checkstyle\.xml|pmd\.xml|detekt\.ya?ml|\.credo\.exs|elvis\.config",
        r"\.formatter\.exs|analysis_options\.yaml|\.shellcheckrc|\.yamllint(\.ya?ml)?|\.perltidyrc|\.perlcriticrc|\.hlint\.yaml",
        r"\.stylish-haskell\.yaml|fourmolu\.yaml|\.ocamlformat|\.luacheckrc|\.?(stylua|selene)\.toml|\.lintr|\.JuliaFormatter\.toml",
        r"\.ameba\.yml|\.hadolint\.ya?ml|\.editorconfig-checker\.json|sonar-project\.properties",
    ),
}  # fmt: skip
# Files in these folders belong to other projects, or show how to use this one.
FOREIGN_FOLDERS = (
    r"(?i)(.*/)?(\.[^/]+|examples?|samples?|demos?|tutorials?|templates?|fixtures?|test-?_?data|node_modules|_?vendor(ed|s)?|"
    r"(third|3rd)[-_ ]?part(y|ies)|extern(al)?s?|bower_components|(?-i:Pods|Carthage)|godeps|site-packages|[^/]*\{\{[^/]*)/.*"
)
# Folders with a purpose of their own: their dependencies are not those of the project.
AUXILIARY_FOLDERS = (
    r"(?i)(.*/)?(docs?|documentation|website|site|playgrounds?|tests?|e2e|bench(mark)?s?|fuzz|scripts?|ci|"
    r"utils?|tools?|contrib|misc|hack|dev|builders?|docker|packaging)/.*"
)
# Files that only serve tests
TEST_TOOLS = (
    r"(?i)(.*/)?((__init__|conftest)\.py|"
    r"tests?[-_](data|fixtures?|results?|reports?|helpers?|utils?|output|resources|assets)/.*)"
)

# A command that runs tests, in a file of a continuous integration service
TEST_COMMAND = "(?i)" + _one_of(
    r"\b(pytest|py\.test|tox|nox|unittest|nose2?|trial|ctest|rspec|minitest|phpunit|pest|vitest|jest|mocha|karma|cypress|playwright|bats)\b",
    r"\b(npm|yarn|pnpm|bun|deno|lerna|nx|turbo)\s+(run\s+|run-script\s+|-\w+\s+)*(t|tests?)\b|\bmanage\.py\s+test|\bR\s+CMD\s+check|rcmdcheck",
    r"\b(cargo|go|mix|stack|cabal|dotnet|swift|bazel(isk)?|flutter|dart|sbt|lein|clojure|meson|ninja|nimble|dune|opam|zig|crystal|elm|just|task|"
    r"hatch|rake|composer|gradlew?|mvnw?|xcodebuild|buck2?|forge|tuist|fastlane|ant|rebar3|busted|prove|melos|moon|pants|mage|invoke|inv)\b[^\n]{0,80}?"
    r"\b(tests?|nextest|runtest|ct|eunit|check|verify|prove|busted)\b|\b(prove|busted)\b",
    r"\b(make|nmake|gmake|cmake)\b[^\n]{0,80}\b(\w+[-_])?(tests?|check)\b|\brun-?_?(the-?_?)?tests?\b|\btest-?_?all\b|\btests?\.(sh|py|pl|ps1|bat)\b",
)  # fmt: skip
# Workflows that only look after issues and pull requests
HOUSEKEEPING = "(?i)" + _one_of(
    r"dessant/(lock-threads|label-actions|support-requests)|actions/(stale|labeler|first-interaction|add-to-project)|stale-action",
    r"(release-drafter|auto-assign|auto-merge|label-sync|issue-label|pr-label|welcome-action|move-issues|no-response)",
)  # fmt: skip

# Tests inside of other source files, by language
INLINE_TESTS = {
    "Rust": r"#\[(cfg\((all\()?test\b|test\]|\w+::test\b)",
    "Zig": r"(?m)^test\s+(\"|\{)",
    "D": r"(?m)^\s*(@\w+\s+)*unittest\b",
}
