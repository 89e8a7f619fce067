"""The documents name files that exist, and the tutorial in docs/architecture.md works."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest
from flask import Flask

from harness.servers import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/**/*.md"), *ROOT.glob("deploy/**/*.md")])
PATH = re.compile(r"`((?:app|bench|deploy|docs|harness|scripts|tests)/[\w./-]*)`")
LINK = re.compile(r"\]\((?!https?:|#|mailto:)([^)#\s]+)")
ANCHORED_LINK = re.compile(r"\]\((?!https?:|mailto:)([^)#\s]*)#([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)
CODE_BLOCK = re.compile(r"^```.*?^```", re.DOTALL | re.MULTILINE)
LINKED = re.compile(r"\[([^\]]*)\]\([^)]*\)")
EXAMPLES = {  # files of the tutorial, and a folder that operators create
    "app/greetings/",
    "app/greetings/service.py",
    "app/greetings/views.py",
    "deploy/docker/secrets/",
    "tests/unit/greetings/test_views.py",
}


def missing_paths(text: str) -> list[str]:
    return [path for path in PATH.findall(text) if path not in EXAMPLES and not (ROOT / path).exists()]


def broken_links(document: Path) -> list[str]:
    return [link for link in LINK.findall(document.read_text()) if not (document.parent / link).exists()]


def broken_anchors(document: Path) -> list[str]:
    """Return the links to headings that do not exist."""
    found = []
    for path, anchor in ANCHORED_LINK.findall(document.read_text()):
        target = document.parent / path if path else document
        if target.suffix == ".md" and anchor not in anchors(target.read_text()):
            found.append(f"{path}#{anchor}")
    return found


def anchors(text: str) -> set[str]:
    """Return the anchors of all headings, as GitHub makes them."""
    found: set[str] = set()
    for heading in HEADING.findall(CODE_BLOCK.sub("", text)):
        words = re.sub(r"[^\w\- ]", "", LINKED.sub(r"\1", heading).strip().lower()).replace(" ", "-")
        same = sum(re.fullmatch(rf"{re.escape(words)}(-\d+)?", anchor) is not None for anchor in found)
        found.add(f"{words}-{same}" if words in found else words)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_paths_and_links_exist(document: Path) -> None:
    assert missing_paths(document.read_text()) == []
    assert broken_links(document) == []
    assert broken_anchors(document) == []


def test_a_missing_path_is_found() -> None:
    assert missing_paths("See `app/nowhere.py` and `app/core/config.py`.") == ["app/nowhere.py"]


def test_a_missing_anchor_is_found(tmp_path: Path) -> None:
    (tmp_path / "other.md").write_text("# A `heading`: with [a link](x.md)\n\n```sh\n# a comment\n```\n\n## Twice\n\n## Twice\n")
    document = tmp_path / "document.md"
    document.write_text(
        "[1](other.md#a-heading-with-a-link) [2](other.md#twice-1) [3](#here)\n\n## Here\n\n[4](other.md#a-comment) [5](#there)\n"
    )
    assert broken_anchors(document) == ["other.md#a-comment", "#there"]


def test_site_contains_every_document() -> None:
    index = (ROOT / "docs" / "index.md").read_text()
    listed = {(ROOT / "docs" / f"{entry}.md").resolve() for entry in re.findall(r"^([\w./-]+)$", index, re.MULTILINE)}
    assert set(DOCUMENTS) - listed == {ROOT / "docs" / "index.md"}


def python_blocks() -> list[str]:
    chapter = (ROOT / "docs/architecture.md").read_text().split("## How to add a blueprint")[1].split("\n## ")[0]
    return re.findall(r"```python\n(.*?)```", chapter, re.DOTALL)


def test_tutorial_blueprint_works(app: Flask, monkeypatch: pytest.MonkeyPatch) -> None:
    service, views = ModuleType("app.greetings.service"), ModuleType("app.greetings.views")
    for module, source in zip((service, views), python_blocks(), strict=True):
        monkeypatch.setitem(sys.modules, module.__name__, module)
        exec(source, vars(module))  # noqa: S102 - the source is our own document
    app.extensions["greetings"] = service.Greetings()
    app.register_blueprint(views.blueprint)
    client = app.test_client()
    assert client.get("/api/greeting").status_code == 401
    client.post("/api/auth/register", json={"email": "ann@example.org", "password": "correct horse battery staple"})
    assert client.get("/api/greeting").get_json() == {"greeting": "Hello, ann@example.org."}
    described = client.get("/api/openapi.json").get_json()["paths"]["/api/greeting"]["get"]
    assert described["summary"] == "Greet the signed-in user"
