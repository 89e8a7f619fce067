"""Recognises the language of a file with the strategies of Linguist, in its order. Ported from lib/linguist.rb."""

import re
from collections.abc import Callable, Sequence
from typing import NamedTuple

from app.analysis.linguist import heuristics, modelines
from app.analysis.linguist.data import load
from app.analysis.linguist.languages import by_alias, index

CONSIDERED_BYTES = 128 * 1024  # of a file that the strategies see
MAX_BYTES_WITH_LINES = 1024**2  # larger files are not searched for modelines and XML declarations

_MANPAGE = re.compile(r"\.(?:[1-9](?![0-9])[a-z_0-9]*|0p|n|man|mdoc)(?:\.in)?$", re.IGNORECASE)
_XML_BEGIN = re.compile(rb"(?:\xef\xbb\xbf)?\s*<")
_OTHER_NAMES = {
    "Dockerfile": re.compile(r"(?:Docker|Container)file[._-].+"),
    "Groovy": re.compile(r"Jenkinsfile[._-].+|.+\.jenkinsfile", re.IGNORECASE),
}
# Signs of languages between which Linguist decides by statistics
_SIGNS = {
    "BitBake": re.compile(
        rb"^(?:SUMMARY|DESCRIPTION|LICENSE|SRC_URI|R?DEPENDS|FILESEXTRAPATHS)\b[\w:${}\[\]-]*[ \t]*[?+.:]*=", re.MULTILINE
    ),
    "OpenCL": re.compile(rb"\bkernel\s+(?:void|__attribute__)\b|#pragma OPENCL\b|\b__global\b|\bget_global_id\b"),
    "Perl": re.compile(rb"^[ \t]*use Test::|^use (?:lib|warnings)\b", re.MULTILINE),
    "Puppet": re.compile(rb"^[ \t]*(?:class|define|node) [\w:'\".-]+\s*(?:\(|inherits\b|\{)|\bensure\s*=>", re.MULTILINE),
    "Scala": re.compile(
        rb"^[ \t]*(?:(?:case )?object \w+|def \w+|(?:lazy )?val \w+\s*[:=]|trait \w+|import [\w.$`]+\.(?:_|\{|\*)|//> using)",
        re.MULTILINE,
    ),
    "SuperCollider": re.compile(rb"\bSynthDef\b|\bSynth\(|\.ar\("),
}
_RARE = {"Terra"}  # also a common name of tests, in several languages
_GENERIC_EXTENSIONS = tuple(load("generic"))


class TextFile(NamedTuple):
    """`content` is at most the first CONSIDERED_BYTES of the file, `size` the size of the file in bytes."""

    name: str
    content: bytes
    size: int


Candidates = Sequence[str]
Strategy = Callable[[TextFile, Candidates], Candidates]


def possible_languages(file: TextFile) -> Candidates:
    """Return the language of a text file, no language if it is unknown, or several languages if it is ambiguous."""
    candidates: Candidates = ()
    for strategy in _STRATEGIES if file.content else ():
        found = strategy(file, candidates)
        if len(found) == 1:
            return found
        candidates = found or candidates
    return _without_classifier(file, candidates)


def _without_classifier(file: TextFile, candidates: Candidates) -> Candidates:
    """Narrow the candidates between which Linguist decides by statistics, and add names that Linguist does not know."""
    if not candidates:
        return [language for language, pattern in _OTHER_NAMES.items() if pattern.fullmatch(file.name)]
    interpreter = modelines.interpreter(file.content)
    if interpreter and (named := by_alias(interpreter)) and named in candidates:
        return [named]
    begin = file.content[: heuristics.MAX_BYTES]
    with_signs = [language for language in candidates if (sign := _SIGNS.get(language)) and sign.search(begin)]
    if len(with_signs) == 1:
        return with_signs
    # Languages that are described by rules have none that applies.
    excluded = heuristics.described_languages(_last_extension(file)) | _RARE
    if not _XML_BEGIN.match(file.content):
        excluded |= {"XML"}
    remaining = [language for language in candidates if language not in excluded]
    return remaining if len(remaining) == 1 else candidates


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
    return heuristics.matching_languages(_last_extension(file), file.content)


def _last_extension(file: TextFile) -> str:
    _, dot, extension = file.name.lower().rpartition(".")
    return dot + extension if dot else ""


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
