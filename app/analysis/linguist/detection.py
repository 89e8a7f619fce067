"""Recognises the language of a file with the strategies of Linguist, in its order. Ported from lib/linguist.rb."""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from app.analysis.linguist import heuristics, modelines
from app.analysis.linguist.data import load
from app.analysis.linguist.languages import by_alias, index

CONSIDERED_BYTES = 128 * 1024  # of a file that the strategies see
MAX_BYTES_WITH_LINES = 1024**2  # larger files are not searched for modelines and XML declarations

_MANPAGE = re.compile(r"\.(?:[1-9](?![0-9])[a-z_0-9]*|0p|n|man|mdoc)(?:\.in)?$", re.IGNORECASE)
_DOCKERFILE = re.compile(r"(?:Docker|Container)file\..+")
_GENERIC_EXTENSIONS = tuple(load("generic"))


@dataclass(frozen=True)
class TextFile:
    """`content` is at most the first CONSIDERED_BYTES of the file, `size` the size of the file in bytes."""

    name: str
    content: bytes
    size: int


Candidates = Sequence[str]
Strategy = Callable[[TextFile, Candidates], Candidates]


def detect(file: TextFile) -> str | None:
    """Return the language of a text file, or None if it is unknown or ambiguous.

    If several languages are possible, Linguist asks a statistical classifier in the end, which this program does not have.
    """
    candidates: Candidates = ()
    for strategy in _STRATEGIES if file.content else ():
        found = strategy(file, candidates)
        if len(found) == 1:
            return found[0]
        candidates = found or candidates
    # Not a rule of Linguist, which knows these names only without a suffix.
    return "Dockerfile" if not candidates and _DOCKERFILE.fullmatch(file.name) else None


def _by_modeline(file: TextFile, _candidates: Candidates) -> Candidates:
    name = modelines.modeline(file.content) if file.size <= MAX_BYTES_WITH_LINES else None
    language = by_alias(name) if name else None
    return [language] if language else []


def _by_filename(file: TextFile, candidates: Candidates) -> Candidates:
    return _narrow(candidates, index().filenames.get(file.name, ()))


def _by_interpreter(file: TextFile, candidates: Candidates) -> Candidates:
    name = modelines.interpreter(file.content)
    return _narrow(candidates, index().interpreters.get(name, ()) if name else ())


def _by_extension(file: TextFile, candidates: Candidates) -> Candidates:
    name = file.name.lower()
    if name.endswith(_GENERIC_EXTENSIONS):
        return candidates
    _, *parts = name.split(".")
    extensions = (f".{'.'.join(parts[begin:])}" for begin in range(len(parts)))
    known = index().extensions
    return _narrow(candidates, next((known[extension] for extension in extensions if extension in known), ()))


def _by_xml_declaration(file: TextFile, candidates: Candidates) -> Candidates:
    if candidates or file.size > MAX_BYTES_WITH_LINES:
        return candidates
    return ["XML"] if b"xml version=" in modelines.first_lines(file.content, 2) else []


def _by_manual_section(file: TextFile, candidates: Candidates) -> Candidates:
    return candidates or (["Roff Manpage", "Roff"] if _MANPAGE.search(file.name) else [])


def _by_content(file: TextFile, _candidates: Candidates) -> Candidates:
    return heuristics.candidates("." + file.name.lower().rpartition(".")[2], file.content)


def _narrow(candidates: Candidates, languages: Candidates) -> Candidates:
    return [language for language in candidates if language in languages] if candidates else languages


_STRATEGIES: Sequence[Strategy] = (
    _by_modeline,
    _by_filename,
    _by_interpreter,
    _by_extension,
    _by_xml_declaration,
    _by_manual_section,
    _by_content,
)
