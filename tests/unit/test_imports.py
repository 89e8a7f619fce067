"""Imports go down only, so that who knows a layer needs to know nothing of those above it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.servers import ROOT

# From the bottom to the top. A module belongs to the first layer, read downwards, that has a pattern for it.
LAYERS = {
    "kernel": r"app\.(version|config|config_parsers|moments|instance|logs|metrics|errors)",
    "resources": r"app\.(redis_(client|multiplexed)|lifecycle|stopping|listening|client_connection|plain_http|threads)"
    r"|app\.analysis(\..*)?|app\.database(\.(?!commands).*)?",
    "sessions": r"app\.sessions(\..*)?",
    "service": r"app\.(\w+)\.service",
    "edges": r"app\.(tracing|proxies|security|api|openapi|commands)|app\.web(\..*)?"
    r"|app\.\w+\.(views|sockets|jobs|commands|guards|bodies|tracking)|app\.jobs\.performer",
    "processes": r"app\.process|app\.jobs\.worker|app\.rehearsal\.(__main__|program)",
    "wiring": r"app(\.adapters|\.jobs\.crew)?",
    "stores and nouns": r"app\.\w+\.\w+"
    r"|app\.(analytics|auth|doctor|exports|fleet|health|insights|jobs|notifications|realtime|rehearsal|repositories)",
}
BOTTOM_UP = ["kernel", "resources", "sessions", "stores and nouns", "service", "edges", "wiring", "processes"]

# Folders of the layers above that are no features of their own.
SHARED = {"analysis", "database", "jobs", "realtime", "sessions"}
# The pages put all features together.
PAGES = "app.web"

Imports = dict[str, set[str]]  # module -> the modules of the application that it imports


def layer(module: str) -> str:
    found = next((name for name, pattern in LAYERS.items() if re.fullmatch(pattern, module)), None)
    assert found, f"{module} is in no layer: add it to LAYERS"
    return found


def feature(module: str) -> str | None:
    parts = module.split(".")
    return parts[1] if len(parts) > 2 and parts[1] not in SHARED else None


def rising(imports: Imports) -> list[str]:
    """Imports from a higher layer."""
    return [
        f"{module} ({layer(module)}) imports {target} ({layer(target)})"
        for module, target in pairs(imports)
        if BOTTOM_UP.index(layer(target)) > BOTTOM_UP.index(layer(module))
    ]


def sideways(imports: Imports) -> list[str]:
    """Imports from another feature of anything but its service and auth.guards, outside of the pages and the processes."""
    return [
        f"{module} imports {target}"
        for module, target in pairs(imports)
        if feature(module) and feature(target) and feature(module) != feature(target)
        if target != "app.auth.guards" and layer(target) != "service"
        if not module.startswith(PAGES) and layer(module) not in ("wiring", "processes")
    ]


def pairs(imports: Imports) -> Iterator[tuple[str, str]]:
    return ((module, target) for module in sorted(imports) for target in sorted(imports[module]))


def imports_of(sources: dict[str, str]) -> Imports:
    return {module: set(targets(ast.parse(source), set(sources))) for module, source in sources.items()}


def targets(tree: ast.Module, modules: set[str]) -> Iterator[str]:
    """Of every import statement, inside of functions and under TYPE_CHECKING too."""
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


def test_no_module_imports_from_a_higher_layer(imports: Imports) -> None:
    assert rising(imports) == []


def test_features_know_only_services_and_guards_of_each_other(imports: Imports) -> None:
    assert sideways(imports) == []


def test_the_kernel_knows_nothing_of_the_application(imports: Imports) -> None:
    known = {target for module, target in pairs(imports) if layer(module) == "kernel"}
    assert {target for target in known if layer(target) != "kernel"} == set()
    assert "app.instance" in known


def test_services_and_stores_know_nothing_of_flask(sources: dict[str, str]) -> None:
    below = {module: source for module, source in sources.items() if re.search(r"\.(\w*_)?(service|store)$", module)}
    assert {"app.auth.service", "app.auth.store", "app.sessions.redis_store"} <= set(below)
    assert [module for module, source in below.items() if re.search(r"^\s*(from|import) flask\b", source, re.MULTILINE)] == []


def test_each_layer_has_modules(imports: Imports) -> None:
    assert {layer(module) for module in imports} == set(BOTTOM_UP) == set(LAYERS)


@pytest.mark.parametrize(
    ("sources", "fault"),
    [
        ({"app.errors": "from app.sessions import store"}, "app.errors (kernel) imports app.sessions.store (sessions)"),
        ({"app.auth.service": "from app.auth.views import x"}, "app.auth.service (service) imports app.auth.views (edges)"),
        ({"app.auth.store": "import app.auth.service"}, "app.auth.store (stores and nouns) imports app.auth.service (service)"),
        ({"app.auth.views": "from app import create_app"}, "app.auth.views (edges) imports app (wiring)"),
        ({"app.api": "def f():\n    from app.jobs.worker import main"}, "app.api (edges) imports app.jobs.worker (processes)"),
    ],
)
def test_an_import_that_rises_is_seen(sources: dict[str, str], fault: str) -> None:
    assert rising(imports_of({"app.sessions.store": "", **sources})) == [fault]


@pytest.mark.parametrize(
    ("statement", "allowed"),
    [
        ("from app.fleet.service import Membership", True),
        ("from app.auth.guards import require_user", True),
        ("from app.auth import guards", True),
        ("from app.sessions.keyring import Keyring", True),
        ("from app.health.store import x", True),
        ("from app.fleet.store import Registry", False),
        ("from app.auth.store import User", False),
        ("from app.auth import limits", False),
    ],
)
def test_an_import_from_the_inside_of_another_feature_is_seen(statement: str, allowed: bool) -> None:
    known = {"app.health.views": statement, "app.auth.guards": "", "app.auth.limits": ""}
    assert bool(sideways(imports_of(known))) is not allowed
