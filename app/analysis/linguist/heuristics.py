"""Linguist's rules that tell languages of one extension apart by the content of the file."""

from collections.abc import Callable
from functools import cache
from typing import Any

from app.analysis.linguist.data import load
from app.analysis.linguist.patterns import Pattern, Text, compile_union

MAX_BYTES = 50 * 1024  # of a file that are searched

Rule = dict[str, Any]
Condition = Callable[[Text], bool]


@cache
def rules_by_extension() -> dict[str, list[Rule]]:
    found: dict[str, list[Rule]] = {}
    for entry in load("heuristics"):
        for extension in entry["extensions"]:
            found.setdefault(extension, entry["rules"])
    return found


def matching_languages(extension: str, content: bytes) -> list[str]:
    """Return the languages of the first rule that applies to the content, or an empty list."""
    text = Text(content[:MAX_BYTES])
    for number, rule in enumerate(rules_by_extension().get(extension, ())):
        if _condition(extension, number)(text):
            return _languages(rule)
    return []


def described_languages(extension: str) -> set[str]:
    """Return the languages that have rules for the extension."""
    return {language for rule in rules_by_extension().get(extension, ()) for language in _languages(rule)}


def _languages(rule: Rule) -> list[str]:
    languages = rule["language"]
    return languages if isinstance(languages, list) else [languages]


@cache
def _condition(extension: str, number: int) -> Condition:
    return compile_condition(rules_by_extension()[extension][number])


def compile_condition(rule: Rule) -> Condition:
    """Compile a rule. Of several kinds of patterns in one rule Linguist uses only the first in this order."""
    if "and" in rule:
        conditions = [compile_condition(part) for part in rule["and"]]
        return lambda text: all(condition(text) for condition in conditions)
    if "pattern" in rule:
        return _compile(rule["pattern"]).occurs_in
    if "negative_pattern" in rule:
        pattern = _compile(rule["negative_pattern"])
        return lambda text: not pattern.occurs_in(text)
    if "named_pattern" in rule:
        return _named_pattern(rule["named_pattern"]).occurs_in
    return lambda text: True


@cache
def _named_pattern(name: str) -> Pattern:
    return _compile(load("named_patterns")[name])


def _compile(patterns: str | list[str]) -> Pattern:
    return compile_union([patterns] if isinstance(patterns, str) else patterns)
