"""The known languages, by name, alias, extension, file name and interpreter."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from app.analysis.linguist.data import load

LANGUAGES: dict[str, dict[str, Any]] = load("languages")


@dataclass
class Index:
    """Names of languages, in the order of the data."""

    aliases: dict[str, str] = field(default_factory=dict)
    extensions: dict[str, list[str]] = field(default_factory=dict)
    filenames: dict[str, list[str]] = field(default_factory=dict)
    interpreters: dict[str, list[str]] = field(default_factory=dict)

    def add(self, name: str, language: dict[str, Any]) -> None:
        default_alias = name.lower().replace(" ", "-")
        self.aliases |= {alias.lower(): name for alias in (default_alias, *language.get("aliases", ()))}
        _append(self.extensions, name, (extension.lower() for extension in language.get("extensions", ())))
        _append(self.filenames, name, language.get("filenames", ()))
        _append(self.interpreters, name, language.get("interpreters", ()))


def _append(index: dict[str, list[str]], name: str, keys: Iterable[str]) -> None:
    for key in keys:
        index.setdefault(key, []).append(name)


@cache
def index() -> Index:
    found = Index()
    for name, language in LANGUAGES.items():
        found.add(name, language)
    return found


def by_alias(alias: str) -> str | None:
    """Return the language that a modeline or `.gitattributes` calls `alias`, or None."""
    aliases = index().aliases
    return aliases.get(alias.lower()) or aliases.get(alias.partition(",")[0].lower())


def type_of(name: str) -> str:
    """Return "programming", "markup", "data" or "prose"."""
    kind: str = LANGUAGES[name]["type"]
    return kind
