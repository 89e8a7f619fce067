"""Imports point downwards, so that a reader of one package needs to know only the packages below it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness.servers import ROOT

# The lowest package first. A package imports only from earlier lines.
PACKAGES = [
    "app.core",
    "app.analysis",
    "app.redis",
    "app.database",
    "app.jobs",
    "app.server",
    "app.sessions",
    "app.http",
    "app.auth",
    "app.health",
    "app.realtime",
    "app.telemetry",
    "app.fleet",
    "app.notifications",
    "app.analytics",
    "app.analytics.reports",
    "app.analytics.exports",
    "app.repositories",
    "app.web",
    "app.operations.doctor",
    "app.operations.rehearsal",
    "app.operations",
    "app.adapters",
    "app.job_wiring",
    "app.factory",
    "app",  # create_app
    "app.worker",
    "app.rehearsal",
]

# Modules that every feature has, from the bottom to the top. A module of a package imports only from the same or a lower level.
LEVELS = {
    "store": r"\.(\w+_)?store$",
    "service": r"\.service$",
    "edge": r"\.(views|sockets|jobs|commands|guards|bodies|tracking)$",
}

# A feature uses another feature through its service and its guards, not through its internals.
# The pages and the rehearsal combine all features.
FEATURES = {
    "app.analytics",
    "app.analytics.exports",
    "app.analytics.reports",
    "app.auth",
    "app.fleet",
    "app.health",
    "app.notifications",
    "app.operations.doctor",
    "app.repositories",
}

Imports = dict[str, set[str]]  # module -> the modules of the application that it imports


def package(module: str) -> str:
    """The longest entry of PACKAGES that the module belongs to; "app" itself holds only create_app."""
    if module == "app":
        return module
    found = [name for name in PACKAGES if name != "app" and (module == name or module.startswith(f"{name}."))]
    assert found, f"{module} belongs to no package: add it to PACKAGES"
    return max(found, key=len)


def level(module: str) -> str | None:
    return next((name for name, pattern in LEVELS.items() if re.search(pattern, module)), None)


def upward(imports: Imports) -> list[str]:
    """Imports from a higher package, or from a higher level of the same package."""
    return [f"{module} imports {target}" for module, target in pairs(imports) if is_upward(module, target)]


def is_upward(module: str, target: str) -> bool:
    here, there = package(module), package(target)
    if here != there:
        return PACKAGES.index(there) > PACKAGES.index(here)
    levels = list(LEVELS)
    low, high = level(module) or "store", level(target) or "store"  # other modules are on the lowest level
    return levels.index(high) > levels.index(low)


def internal(imports: Imports) -> list[str]:
    """Imports from another feature that bypass its service and its guards."""
    return [
        f"{module} imports {target}"
        for module, target in pairs(imports)
        if {package(module), package(target)} <= FEATURES and package(module) != package(target)
        if level(module) in (None, "store") or (target != "app.auth.guards" and level(target) != "service")
    ]


def pairs(imports: Imports) -> Iterator[tuple[str, str]]:
    return ((module, target) for module in sorted(imports) for target in sorted(imports[module]))


def imports_of(sources: dict[str, str]) -> Imports:
    return {module: set(targets(ast.parse(source), set(sources))) for module, source in sources.items()}


def targets(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """The targets of every import statement, including those inside functions and under TYPE_CHECKING."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "app")
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            if node.module and node.module.split(".")[0] == "app":
                names = (f"{node.module}.{alias.name}" for alias in node.names)
                yield from (name if name in modules else node.module for name in names)


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


@pytest.fixture(scope="module")
def sources() -> dict[str, str]:
    return {module_name(path): path.read_text() for path in (ROOT / "app").rglob("*.py")}


@pytest.fixture(scope="module")
def imports(sources: dict[str, str]) -> Imports:
    return imports_of(sources)


def test_no_import_points_upwards(imports: Imports) -> None:
    assert upward(imports) == []


def test_features_use_only_services_and_guards_of_each_other(imports: Imports) -> None:
    assert internal(imports) == []


def test_services_and_stores_do_not_import_flask(sources: dict[str, str]) -> None:
    below = {module: source for module, source in sources.items() if level(module) in ("service", "store")}
    assert {"app.auth.service", "app.auth.store", "app.sessions.redis_store"} <= set(below)
    assert [module for module, source in below.items() if re.search(r"^\s*(from|import) flask\b", source, re.MULTILINE)] == []


def test_each_package_has_modules(imports: Imports) -> None:
    assert {package(module) for module in imports} == set(PACKAGES)


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        ({"app.core.errors": "from app.sessions import store"}, "app.core.errors imports app.sessions.store"),
        ({"app.auth.service": "from app.auth.views import x"}, "app.auth.service imports app.auth.views"),
        ({"app.auth.store": "import app.auth.service"}, "app.auth.store imports app.auth.service"),
        ({"app.auth.views": "from app import create_app"}, "app.auth.views imports app"),
        ({"app.http.api": "def f():\n    from app.worker import main"}, "app.http.api imports app.worker"),
    ],
)
def test_an_upward_import_is_found(sources: dict[str, str], fault: str) -> None:
    assert upward(imports_of({"app.sessions.store": "", **sources})) == [fault]


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("from app.fleet.service import FleetMembership", True),
        ("from app.auth.guards import require_user", True),
        ("from app.auth import guards", True),
        ("from app.core.keyring import Keyring", True),
        ("from app.health.store import x", True),
        ("from app.fleet.store import Registry", False),
        ("from app.auth.store import User", False),
        ("from app.auth import limits", False),
    ],
)
def test_an_import_of_the_internals_of_another_feature_is_found(statement: str, allowed: bool) -> None:
    known = {"app.health.views": statement, "app.auth.guards": "", "app.auth.limits": ""}
    assert bool(internal(imports_of(known))) is not allowed
