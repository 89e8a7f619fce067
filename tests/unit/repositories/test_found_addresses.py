"""Addresses of repositories in lists, documents and lists of packages, and texts that are made to take long."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from app.repositories.found_addresses import (
    GO_MODULE,
    MAX_FOUND,
    MAX_TEXT_LENGTH,
    NOTHING_FOUND,
    RELATIVE,
    find_addresses,
)

FLASK = "https://github.com/pallets/flask"

LIST = """\
# what we depend on
pallets/flask
- https://github.com/psf/requests
* git@github.com:redis/redis-py.git

1. "https://gitlab.com/group/team/project",
git.example.org/x/y
HTTPS://GitHub.com/Pallets/Flask.git   # again
see https://codeberg.org/a/b/issues/1 for details
"""
README = """\
[![CI](https://github.com/x/y/actions/workflows/ci.yml/badge.svg)](https://github.com/x/y/actions)
![Stars](https://img.shields.io/github/stars/x/y), and/or src/main.py, see https://docs.example.org/guide.
Uses github.com/a/b. By [somebody](https://github.com/somebody), <https://github.com/features/actions>.

    git clone https://git.example.org/z.git
    git clone git@bitbucket.org:team/tool.git
"""
GO_MOD = """\
module github.com/me/mine/v3

go 1.22

require (
\tgithub.com/x/y/v2 v2.0.1
\tgithub.com/x/y/v2/sub v2.0.1 // indirect
\tgitlab.com/g/s/p/v4 v4.1.0
\tgolang.org/x/net v0.1.0
)
replace github.com/q/r => github.com/fork/r v1.0.0
"""
GITMODULES = """\
[submodule "a"]
\tpath = a
\turl = https://git.example.org/a
[submodule "b"]
\turl = git@github.com:c/d.git
[submodule "e"]
\turl = ../e.git
"""
PACKAGES = """\
flask @ git+https://github.com/pallets/flask.git@3.0
-e git+https://github.com/pallets/click@main#egg=click
"cli": "git+ssh://git@github.com:npm/cli.git#v1.0.27", "z": "github:y/z#main",
gem 'rails', github: 'rails/rails', branch: 'main'
{"name": "express", "repository": "expressjs/express", "files": ["lib/index.js"]}
foo = { git = "https://git.example.org/foo.git", tag = "v1" }
"resolved": "https://registry.example.org/a/-/a-1.0.0.tgz"
"""


def urls(text: str) -> list[str]:
    return [found.address.url for found in find_addresses(text, ()) if found.address]


def refused(text: str) -> dict[str, str | None]:
    return {found.text: found.reason for found in find_addresses(text, ()) if not found.address}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            LIST,
            [
                FLASK,
                "https://github.com/psf/requests",
                "https://github.com/redis/redis-py",
                "https://gitlab.com/group/team/project",
                "https://git.example.org/x/y",
                "https://codeberg.org/a/b",
            ],
        ),
        (
            README,
            [
                "https://github.com/x/y",
                "https://github.com/a/b",
                "https://git.example.org/z.git",
                "https://bitbucket.org/team/tool",
            ],
        ),
        (
            GO_MOD,
            [
                "https://github.com/me/mine",
                "https://github.com/x/y",
                "https://gitlab.com/g/s/p",
                "https://github.com/q/r",
                "https://github.com/fork/r",
            ],
        ),
        (GITMODULES, ["https://git.example.org/a", "https://github.com/c/d"]),
        (
            PACKAGES,
            [
                FLASK,
                "https://github.com/pallets/click",
                "https://github.com/npm/cli",
                "https://github.com/y/z",
                "https://github.com/rails/rails",
                "https://github.com/expressjs/express",
                "https://git.example.org/foo.git",
            ],
        ),
        ("pallets/flask", [FLASK]),
        ("", []),
    ],
    ids=["list", "readme", "go.mod", "gitmodules", "packages", "one", "empty"],
)
def test_addresses_are_found(text: str, expected: list[str]) -> None:
    assert urls(text) == expected


def test_what_is_meant_as_an_address_is_refused_with_a_reason() -> None:
    assert refused(README) == refused(PACKAGES) == {}
    assert refused(GO_MOD) == {"golang.org/x/net": GO_MODULE}
    assert refused(GITMODULES) == {"../e.git": RELATIVE}
    found = refused("pallets/flask\nhttps://github.com/sponsors/x\nhello\nhttps://github.com/only\nftp://example.org/a\na/b")
    assert list(found) == ["https://github.com/sponsors/x", "hello", "https://github.com/only", "ftp://example.org/a"]
    assert found["hello"] == NOTHING_FOUND
    for text in ("https://github.com/sponsors/x", "https://github.com/only"):
        assert "must name an owner" in (found[text] or "")


def test_local_path_is_an_entry_of_a_list_below_a_root(tmp_path: Path) -> None:
    path = tmp_path / "my tool"
    subprocess.run(["git", "init", "--quiet", path], check=True)
    assert [found.address and found.address.name for found in find_addresses(f"{path}\npallets/flask", [tmp_path])] == [
        "my tool",
        "pallets/flask",
    ]
    assert urls(f"{path}\npallets/flask") == [FLASK]


def test_number_of_addresses_is_limited() -> None:
    assert urls("\n".join(f"owner/name-{number}" for number in range(1000))) == [
        f"https://github.com/owner/name-{number}" for number in range(MAX_FOUND)
    ]


def test_refused_addresses_take_no_place_of_others() -> None:
    lines = [
        line for number in range(MAX_FOUND - 50) for line in (f"golang.org/x/{number} v1.0.0", f"github.com/o/n{number} v1.0.0")
    ]
    found = find_addresses("\n".join(["module m", *lines]), ())
    assert len(found) == MAX_FOUND
    assert sum(one.address is not None for one in found) == MAX_FOUND - 50
    assert [one.text for one in found[:2]] == ["golang.org/x/0", "github.com/o/n0"]


PARTS = [
    *(
        "a\n",
        "a/\n",
        "a",
        "a.",
        "a/",
        "git@",
        " ",
        " #",
        '"',
        "https://",
        "@c",
        "github:",
        "github.com/",
        "github.com/a ",
        "a.b/c v1\n",
    ),
    *("1. ", "require ", "[submodule \n", "url =", "a/b@"),
]


@pytest.mark.parametrize("start", ["", "x y ", "module a\n", "https://github.com/a/b"])
def test_time_is_bounded(start: str) -> None:
    """A pattern that takes quadratic time would take minutes."""
    length = MAX_TEXT_LENGTH // 10
    for part in PARTS:
        text = (start + part * length)[:length]
        begin = time.process_time()
        find_addresses(text, ())
        assert time.process_time() - begin < 1, part
