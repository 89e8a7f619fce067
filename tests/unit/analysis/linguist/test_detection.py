"""Languages are recognised by Linguist's strategies, and any file in bounded time."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path

import pytest

from app.analysis.linguist import classification, heuristics
from app.analysis.linguist.classification import Attributes, classify
from app.analysis.linguist.detection import CONSIDERED_BYTES, MAX_BYTES_WITH_LINES, TextFile, possible_languages
from app.analysis.linguist.languages import LANGUAGES, by_alias
from app.analysis.linguist.time_limit import CpuTimeLimit, TimeLimitExceeded

EXAMPLES: dict[str, list[tuple[str, list[str]]]] = json.loads((Path(__file__).parent / "examples.json").read_text())


def languages(name: str, content: bytes, size: int | None = None) -> list[str]:
    return list(possible_languages(TextFile(name, content, len(content) if size is None else size)))


def test_every_rule_has_an_example() -> None:
    """An example is a small text for which the rule is the first that applies. test_comparison.py asks Linguist about them."""
    for extension, examples in EXAMPLES.items():
        rules = heuristics.rules_by_extension()[extension]
        assert [expected for _, expected in examples] == [heuristics._languages(rule) for rule in rules]
    tested = {id(heuristics.rules_by_extension()[extension]) for extension in EXAMPLES}
    assert tested == {id(rules) for rules in heuristics.rules_by_extension().values()}


@pytest.mark.parametrize("extension", EXAMPLES)
def test_examples_of_rules(extension: str) -> None:
    found = [heuristics.matching_languages(extension, text.encode()) for text, _ in EXAMPLES[extension]]
    assert found == [expected for _, expected in EXAMPLES[extension]]


def test_rules_name_known_languages_and_single_extensions() -> None:
    for extension, rules in heuristics.rules_by_extension().items():
        assert extension.rfind(".") == 0
        assert {language for rule in rules for language in heuristics._languages(rule)} <= set(LANGUAGES)


def test_named_pattern_that_occurs_only_after_the_considered_bytes_does_not_count() -> None:
    begin = b"/* C */\n" * (heuristics.MAX_BYTES // 8)
    assert heuristics.matching_languages(".h", begin[:-8] + b"class A\n") == ["C++"]
    assert heuristics.matching_languages(".h", begin + b"class A\n") == ["C"]


@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.py", b"1\n", ["Python"]),
        ("A.PY", b"1\n", ["Python"]),
        ("a.html.erb", b"1\n", ["HTML+ERB"]),
        (".h", b"int a;\n", ["C"]),
        ("h", b"int a;\n", []),
        ("Rakefile", b"1\n", ["Ruby"]),
        ("rakefile", b"1\n", []),
        ("a.py", b"# -*- mode: ruby -*-\n", ["Ruby"]),
        ("a.py", b"# -*- mode: unheard-of -*-\n", ["Python"]),
        ("run", b"#!/bin/bash\n", ["Shell"]),
        ("run", b"#!/usr/bin/perl\n", ["Perl"]),
        ("a", b'<?xml version="1.0"?>\n', ["XML"]),
        ("a", b'\n\n<?xml version="1.0"?>\n', []),
        ("a.sol", b"contract A {\n", ["Solidity"]),
        ("a.sol", b"?\n", []),  # a common extension needs a rule that applies
        ("a.3pm", b".TH a 1\n.SH b\n", ["Roff Manpage"]),
        ("a.7ssl", b"?\n", ["Roff Manpage", "Roff"]),
        ("a.hh", b"struct A;\n", ["C++"]),
        ("a.hh", b"<?hh\n", ["Hack"]),
        ("a.mm", b"void f() {}\n", ["Objective-C++"]),
        ("a.mm", b"<map>\n</map>\n", ["Objective-C++", "XML"]),
        ("a.cs", b"?\n", ["C#", "Smalltalk"]),
        ("Dockerfile.dev", b"FROM a\n", ["Dockerfile"]),
        ("Dockerfile.md", b"# A\n", ["Markdown"]),
        ("a.py", b"", []),
        ("Dockerfile-prod", b"FROM a\n", ["Dockerfile"]),
        ("Jenkinsfile.release", b"node {}\n", ["Groovy"]),
        ("release.jenkinsfile", b"node {}\n", ["Groovy"]),
        ("a.sc", b"import mill._, scalalib._\n", ["Scala"]),
        ("a.sc", b"val x = 1\n", ["Scala"]),
        ("a.sc", b"SynthDef(\\a, {});\n", ["SuperCollider"]),
        ("a.cl", b"kernel void f(global const float *a) {}\n", ["OpenCL"]),
        ("a.bb", b'DESCRIPTION = "A"\nSRC_URI[sha256sum] = "b"\n', ["BitBake"]),
        ("a.pp", b"class a {\n}\n", ["Puppet"]),
        ("a.t", b"use Test::More tests => 1;\n", ["Perl"]),
        ("a.t", b"  $ hg init a\n", ["Perl", "Raku", "Terra", "Turing"]),
    ],
)
def test_possible_languages(name: str, content: bytes, expected: list[str]) -> None:
    assert languages(name, content) == expected


def test_large_file_is_not_searched_for_modelines() -> None:
    content = b"# -*- mode: ruby -*-\n"
    assert languages("a.py", content, MAX_BYTES_WITH_LINES) == ["Ruby"]
    assert languages("a.py", content, MAX_BYTES_WITH_LINES + 1) == ["Python"]


@pytest.mark.parametrize("alias", ["c++", "CPP", "C++", "cpp,foo"])
def test_language_by_alias(alias: str) -> None:
    assert by_alias(alias) == "C++"
    assert by_alias("vim-help-file") == "Vim Help File"
    assert by_alias("unheard-of") is None


# Without the limits, the first and the third take minutes and the others seconds.
ENDLESS = [
    ("a.c", b"# vim: " + b"a=:" * 30 + b" ft=\n ft=x!\n"),
    ("a.as", b" " * CONSIDERED_BYTES),
    ("a.pro", b"\n" * CONSIDERED_BYTES),
    ("a.d", b"a" * CONSIDERED_BYTES),
]


@pytest.mark.parametrize(("name", "content"), ENDLESS)
def test_any_file_is_recognised_in_bounded_time(name: str, content: bytes) -> None:
    started = time.process_time()
    classify(name.encode(), content, len(content), Attributes())
    assert time.process_time() - started < 2


def test_time_limit_interrupts_a_search() -> None:
    with pytest.raises(TimeLimitExceeded), CpuTimeLimit(0.05):
        re.search("(a|aa)*b", "a" * 100)


def test_file_that_exceeds_the_limit_is_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(classification, "MAX_SECONDS_PER_FILE", 0.01)
    assert classify(b"a.d", b"a" * CONSIDERED_BYTES, CONSIDERED_BYTES, Attributes()) == (None, "unknown")
    assert classify(b"a.d", b"module a;\n", 10, Attributes()) == ("D", None)
