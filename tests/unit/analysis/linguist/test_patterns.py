"""Regular expressions of Ruby are translated to equivalent ones of Python."""

from __future__ import annotations

import pytest

from app.analysis.linguist.patterns import MANY_LINES, Text, compile_union, translate


@pytest.mark.parametrize(
    ("pattern", "translated"),
    [
        (r"a\z", r"a\Z"),
        (r"(?-m)a", "a"),
        (r"(?i)a|b", "(?i:a|b)"),
        (r"(?m)a.b", "(?s:a.b)"),
        (r"(?im)a", "(?is:a)"),
        (r"a(?i)b|c", "a(?i:b|c)"),
        (r"(a(?i)b)c", "(a(?i:b))c"),
        (r"(?i:a)b", "(?i:a)b"),
        (r"(?<year>\d+)-\g<year>", r"(\d+)-(?:\d+)"),
        (r"(?<=a)b(?<!c)d(?=e)(?!f)", r"(?<=a)b(?<!c)d(?=e)(?!f)"),
        ("(?x) a\n  b # comment (\n  [ ]c\\ d", r"ab[ ]c\ d"),
        (r"[\s&&[^\r\n]]*a", r"[^\S\r\n]*a"),
        (r"[)(\]]\(", r"[)(\]]\("),
    ],
)
def test_translation(pattern: str, translated: str) -> None:
    assert translate(pattern) == translated


@pytest.mark.parametrize(
    ("pattern", "text", "occurs"),
    [
        ("^a", b"b\na", True),
        ("^a", b"ba", False),
        ("a$", b"a\nb", True),
        (r"^\s*a", b"\n \n\ta", True),
        (r"^\s*a", b"b a", False),
        (r"^(\s*)a", b"b\n a", True),
        (r"(^\s*a|b)c", b"\n ac", True),
        (r"(^a)|b", b"xb", True),
        (r"(?:^|\s)a", b"b a", True),
        (r"(?i)^a|^b", b"x\nB", True),
        (r"\Aa", b"b\na", False),
        (r"\s*a", b"xa", True),
        (r"\w+b", b"ab", True),
        (r"\w+b", b" b", False),
        (r"\sa", b"a", False),
        (r"\A\z", b"", True),
        ("a.b", b"a\nb", False),
        ("(?m)a.b", b"a\nb", True),
        (r"\w", "é".encode(), False),
        ("^é", "x\né".encode(), True),
    ],
)
def test_occurrence(pattern: str, text: bytes, occurs: bool) -> None:
    assert compile_union([pattern]).occurs_in(Text(text)) is occurs


def test_occurrence_in_very_many_lines() -> None:
    begin = b"\n" * (MANY_LINES + 1)
    assert compile_union(["^ab"]).occurs_in(Text(begin + b"ab"))
    assert not compile_union(["^ab"]).occurs_in(Text(begin + b"a"))


def test_union_occurs_if_one_pattern_does() -> None:
    pattern = compile_union(["(?i)a", "b"])
    assert [pattern.occurs_in(Text(text)) for text in (b"A", b"b", b"B")] == [True, True, False]
