"""Recognises licence files and combines them to an SPDX expression. `docs/analysis.md` describes the rules."""

import codecs
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import IntEnum
from itertools import accumulate

MAX_FILES = 40
MAX_TOTAL_BYTES = 1024**2  # of all files; takes a second of processor time
MIN_TEXT_LENGTH = 150  # characters; a shorter match is the address of a licence
MAX_PREFACE_LENGTH = 1500  # characters; a licence after a longer text is one of a bundled part
MIN_COVERAGE = 0.6  # the share of a file that must be the text of a licence where there is doubt
MAX_REFERENCE_LENGTH = 1000  # characters of a file that has no licence text, but only names one by its address


class Role(IntEnum):
    """The ways in which a file is related to the licence of the project, in the order of preference."""

    MAIN = 1  # LICENSE, COPYING.md
    VARIANT = 2  # LICENSE-MIT, COPYING.LESSER: one of several licences
    PART = 3  # LICENSE-jquery.txt: probably the licence of a bundled part
    ELSEWHERE = 4  # docs/LICENSE
    COLLECTION = 5  # LICENSES/MIT.txt: the licences of single files, as specified by REUSE


_KEYWORD = re.compile(r"((un)?licen[cs]es?|copying|copyright)(v?\d+)?")
_FAMILIES = (
    "0bsd|a?gpl|lgpl|lesser|lib|library|g?fdl|apache|asl|mit|x11|expat|bsd|isc|mpl|epl|cddl|cecill|cc0|by|ofl|zlib|boost|bsl|wtfpl|"
    "artistic|perl|psf|ruby|upl|eupl|ecl|osl|afl|ncsa|code"
)
_FAMILY = re.compile(
    rf"v?\d+|({_FAMILIES})v?\d*|cc|clause|new|simplified|or|later|only|and|sa|nc|nd|public|domain|english|en|the"
)
_FAMILY_EXTENSION = re.compile(rf"v?\d+|({_FAMILIES})[\w-]*")
_NAMED_BY_FAMILY = re.compile(r"([al]?gpl|ofl|mpl|apache|cc0|cecill)[-_.]?v?[\d.]*(-or-later|-only)?\.(txt|md)", re.IGNORECASE)
_TEXT_EXTENSION = re.compile(r"md|markdown|mkd|rst|txt|adoc|asciidoc|org|html?|rdoc|pod|textile")
_FOREIGN_WORD = re.compile(
    r"(third|3rd)?-?part(y|ies)|third|3rd|bundled?|vendor(ed)?|external|dep(endencie)?s|dependency|headers?|template|check(er)?|"
    r"reports?|notices?|exceptions?|list"
)
_COLLECTION = re.compile(r"(licen[cs]es?|copying)/[^/]+", re.IGNORECASE)
_ELSEWHERE = re.compile(r"(\.github|docs?|documentation|legal)/([^/]+)", re.IGNORECASE)

# Licences that the library does not know in their current wording. RSALv2 has no SPDX identifier.
_OTHER_TEXTS = {
    "Vim": "there are no restrictions on distributing unmodified copies of vim except that they must include this license text",
    "LicenseRef-RSALv2": "redis source available license 2.0 (rsalv2) agreement",
    "CECILL-2.1": "contrat de licence de logiciel libre cecill version 2.1",
    "EPL-2.0": "eclipse public license v 2.0 the accompanying program is provided under the terms of this",  # without its exhibit
    "CERN-OHL-P-2.0": "cern open hardware licence version 2 - permissive",
    "Python-2.0.1": "a. history of the software python was created in the early 1990s by guido van rossum",
    "BUSL-1.1": "business source license is a trademark of mariadb corporation ab",  # in front of the parameters
    "CommonsClause": "commons clause license condition v1.0",  # in front of another licence
}
_OTHER_PATTERNS = {
    spdx_id: re.compile(r"\W+".join(re.findall(r"\w+", words)), re.IGNORECASE) for spdx_id, words in _OTHER_TEXTS.items()
}
_NAMED = (
    "MIT ISC Unlicense 0BSD WTFPL Zlib BSD-2-Clause BSD-3-Clause Apache-2.0 MPL-2.0 EPL-2.0 "
    "GPL-2.0 GPL-3.0 LGPL-2.1 LGPL-3.0 AGPL-3.0"
)
_BY_NAME = {spdx_id.lower(): spdx_id for spdx_id in _NAMED.split()}
# The address of a licence, its identifier alone, or a sentence that names the MIT licence
_REFERENCE = re.compile(
    rf"\b(?:opensource\.org|spdx\.org|choosealicense\.com|gnu\.org)/licen[cs]es?/({'|'.join(map(re.escape, _BY_NAME))})(?![\w-])|"
    rf"\A\W*({'|'.join(map(re.escape, _BY_NAME))})\W*\Z|\b(mit)\W+licen[cs]ed?\b",
    re.IGNORECASE,
)
# What the library finds that is not an SPDX identifier. Grants of patents are additions to a licence.
_NOT_SPDX = {
    "Aladdin-9",
    "Anti996",
    "BSD-1-Clause-Clear",
    "BSD-3-Clause-NoTrademark",
    "CommonsClause",
    "MIT-NoAd",
    "Prosperity-3.0.0",
}
_IGNORED = {"GooglePatentClause", "GooglePatentsFile"}
_EXCEPTIONS = {
    "Apache-2.0": {
        "LLVM-exception": re.compile(r"llvm\s+exceptions\s+to\s+the\s+apache", re.IGNORECASE),
        "Swift-exception": re.compile(r"runtime\s+library\s+exception\s+to\s+the\s+apache", re.IGNORECASE),
    },
    "GPL-2.0": {"Classpath-exception-2.0": re.compile(r"classpath\W+exception\s+to\s+the\s+gpl", re.IGNORECASE)},
}
# For documents, fonts and data: beside another licence, it is not the one of the program.
_CONTENT = re.compile(r"CC-BY-|GFDL-|OFL-|ODbL-|ODC-|CDLA-|Bitstream-")
_ID = r"\(*[A-Za-z0-9](?:[A-Za-z0-9.+-]{0,60}[A-Za-z0-9+])?\)*"
_TAG = re.compile(rf"SPDX-License-Identifier:[ \t]{{1,9}}({_ID}(?: (?:AND|OR|WITH) {_ID}){{0,9}})")
_CHOICE = re.compile(
    r"(dual|tri|triple|multi)[- ]?(ly )?licen[cs]|either\b(?! version)|choice\s+of|"
    r"at\s+your\s+(option|choice|discretion)(?!\)?,?\s+any\s+later)|"
    r"choose\s+(between|one|which)|under\s+(any|one)\s+of|alternatively|same\s+terms\s+as\s+perl|"
    r"also\s+be\s+(made\s+)?available\s+under|secondary\s+licen[cs]e",
    re.IGNORECASE,
)
_SOME_FILES = re.compile(
    r"(some|certain|these|following|part of the|parts of the)\s+([\w-]+\s+){0,2}files|taken\s+from", re.IGNORECASE
)
_PARTS = re.compile(
    r"component|third[- ]part|bundl|portion|includ|contain|originat|deriv|based\s+on|part(s|ly)?\s+of|following|except|librar|"
    r"module|documentation|borrow|adapt|vendor|depend|files?\b|folder|director|legacy|\bfrom\b",
    re.IGNORECASE,
)


@dataclass(frozen=True)
class LicenseText:
    """The licences in one file: all of `ids` apply if `operator` is AND, the user has the choice if it is OR.

    `others` are licences of bundled parts.
    """

    ids: tuple[str, ...] = ()
    operator: str = "AND"
    others: tuple[str, ...] = ()
    coverage: float = 0  # the share of the text that is the text of a licence


@dataclass(frozen=True)
class _Match:
    """A place in a text that has a licence, from `start` to `end`. `id` is the one of the library."""

    id: str
    start: int
    end: int


@dataclass(frozen=True)
class Licenses:
    """The licences of a repository. `found` has pairs of path and SPDX identifier, `path` is the most important licence file."""

    found: list[tuple[str, str]] = field(default_factory=list)
    expression: str | None = None
    path: str | None = None


def role_of(path: str) -> Role | None:
    """Return None if the path is not the one of a licence file."""
    if found := _ELSEWHERE.fullmatch(path):
        return Role.ELSEWHERE if _role_of_name(found[2]) in (Role.MAIN, Role.VARIANT) else None
    if _COLLECTION.fullmatch(path):
        name = path.partition("/")[2]
        return Role.COLLECTION if _has_text(name.lower()) and not name.lower().startswith("readme") else None
    return None if "/" in path else _role_of_name(path)


def _role_of_name(name: str) -> Role | None:
    lower = name.lower()
    if _NAMED_BY_FAMILY.fullmatch(lower):
        return Role.VARIANT
    words = re.split("[-_. ]+", _without_extension(lower))
    if not _has_text(lower) or not any(_KEYWORD.fullmatch(words[place]) for place in (0, -1)):
        return None
    others = [word for word in words if not _KEYWORD.fullmatch(word)]
    if all(_FAMILY.fullmatch(word) for word in others):
        return Role.VARIANT if others else Role.MAIN
    return None if any(_FOREIGN_WORD.fullmatch(word) for word in others) else Role.PART


def _without_extension(name: str) -> str:
    stem, dot, extension = name.rpartition(".")
    return stem if dot and _TEXT_EXTENSION.fullmatch(extension) else name


def _has_text(name: str) -> bool:
    """Return False for source files and the like: `license.go`."""
    _, dot, extension = name.rpartition(".")
    return not dot or any(pattern.fullmatch(extension) for pattern in (_TEXT_EXTENSION, _FAMILY_EXTENSION, _KEYWORD))


def preference(path: str) -> tuple[Role, int, str]:
    """Return the sort key of a licence file."""
    role = role_of(path)
    assert role is not None
    return role, len(path), path


def combine(texts: Mapping[str, bytes]) -> Licenses:
    """Return the licences of a repository. `texts` has the beginnings of its licence files by path."""
    paths = _within_budget(sorted(texts, key=preference), texts)
    identified = {path: text for path in paths if (text := _identify_file(path, texts[path])).ids}
    deciding = _deciding_paths(paths, identified)
    has_main = bool(deciding) and role_of(deciding[0]) == Role.MAIN
    own = _own({spdx_id for path in deciding for spdx_id in identified[path].ids}, has_main)
    is_collection = bool(deciding) and role_of(deciding[0]) == Role.COLLECTION
    unknown = [path for path in paths if role_of(path) not in (Role.PART, Role.COLLECTION) and not _is_notice(path)]
    best = [path for path in deciding if own & set(identified[path].ids)] or unknown
    return Licenses(
        found=[(path, spdx_id) for path, text in identified.items() for spdx_id in (*text.ids, *text.others)],
        expression=(" AND " if is_collection else " OR ").join(_alternatives([identified[path] for path in deciding], own))
        or None,
        path=next(iter(best), None),
    )


def _within_budget(paths: list[str], texts: Mapping[str, bytes]) -> list[str]:
    ends = accumulate(len(texts[path]) for path in paths)
    return [path for path, end in zip(paths, ends, strict=True) if end <= MAX_TOTAL_BYTES]


def _deciding_paths(paths: list[str], identified: Mapping[str, LicenseText]) -> list[str]:
    """Return the files that say what the licence of the project is."""
    by_role = {role: [path for path in identified if role_of(path) == role] for role in Role}
    collection = [path for path in by_role[Role.COLLECTION] if path.startswith("LICENSES/")]  # as REUSE spells it
    if choices := [path for path in by_role[Role.MAIN] if identified[path].operator == "OR"]:
        return choices
    if own := by_role[Role.MAIN] + by_role[Role.VARIANT]:
        return own
    if any(role_of(path) == Role.MAIN and not _is_notice(path) for path in paths):
        return collection  # the file is unknown, or only refers to them
    return by_role[Role.PART] or by_role[Role.ELSEWHERE] or collection


def _is_notice(path: str) -> bool:
    """Return True for a file that usually names only the holders of the copyright."""
    return path.lower().startswith("copyright")


def _alternatives(texts: list[LicenseText], own: set[str]) -> list[str]:
    found: dict[str, None] = {}
    for text in texts:
        ids = [spdx_id for spdx_id in text.ids if spdx_id in own]
        found |= dict.fromkeys(ids if text.operator == "OR" else filter(None, [" AND ".join(ids)]))
    return [f"({one})" if " AND " in one and len(found) > 1 else one for one in found]


def _own(ids: set[str], has_main: bool) -> set[str]:
    """Leave out the licences of contents, the GPL that the LGPL refers to, and what another identifier says more precisely.

    The LGPL 2 does not need the GPL: without a main file such as COPYING, both are offered (LICENSE.GPL, LICENSE.LGPL).
    """
    own = {spdx_id for spdx_id in ids if not _CONTENT.match(spdx_id)} or ids
    lesser = {other[1:6] for other in own if other.startswith("LGPL-3" if not has_main else "LGPL-")}
    return {
        spdx_id
        for spdx_id in own
        if not {f"{spdx_id}-only", f"{spdx_id}-or-later"} & own and not (spdx_id.startswith("GPL-") and spdx_id[:5] in lesser)
    }


def _identify_file(path: str, content: bytes) -> LicenseText:
    found = identify(decode(content))
    if path.startswith("LICENSES/"):  # of REUSE: the name of the file is the identifier
        name = _without_extension(path.rpartition("/")[2])
        known = name.startswith("LicenseRef-") or (found.ids and _family(name) == _family(found.ids[0]))
        return LicenseText((name,)) if known else found
    return LicenseText() if _is_notice(path) and found.coverage < MIN_COVERAGE else found


def decode(content: bytes) -> str:
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        return content.decode("utf-16", errors="replace")
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError:
        return content.decode("cp1252", errors="replace")


def identify(text: str) -> LicenseText:
    """Return the licences in a file, in their order."""
    matches = _matches(text)
    texts = [match for match in matches if match.end - match.start >= MIN_TEXT_LENGTH]
    if (tag := _TAG.search(text)) and (not texts or tag.start() < texts[0].start):
        return _of_expression(tag[1])
    if not texts and len(text) <= MAX_REFERENCE_LENGTH:
        texts = matches or _references(text)
    coverage = sum(match.end - match.start for match in texts) / max(1, len(text))
    if not texts or (len(text[: texts[0].start].strip()) > MAX_PREFACE_LENGTH and coverage < MIN_COVERAGE):
        return LicenseText()
    between = _between(text, texts)
    is_choice = texts[0].id == "GPL-2.0-or-3.0" or (len(texts) > 1 and _is_choice(between[0], between[1]))
    ids = _distinct_ids(texts, text)
    has_parts = not is_choice and texts[0].id != "CommonsClause" and _has_parts(between)
    own = 1 if has_parts else len(ids)
    return LicenseText(tuple(ids[:own]), "OR" if is_choice else "AND", tuple(ids[own:]), coverage)


def _is_choice(before: str, after: str) -> bool:
    """Return True if the texts before and after the first licence say that the user has the choice."""
    texts = [text for text in (before, after) if len(text) <= MAX_PREFACE_LENGTH]
    return any(map(_CHOICE.search, texts)) and not any(map(_SOME_FILES.search, texts))


def _has_parts(between: list[str]) -> bool:
    """Return True if the texts around the licences say that the others are those of parts."""
    return bool(_SOME_FILES.search(between[0])) or any(_PARTS.search(text) for text in between[1:])


def _matches(text: str) -> list[_Match]:
    from licenseclassifier import identify_license  # loads within 0.1 s, which other processes don't need

    found = [_Match(match.id, match.start, match.end) for match in identify_license(text, 0) if match.id not in _IGNORED]
    for spdx_id, pattern in _OTHER_PATTERNS.items():
        other = pattern.search(text)
        if other and not any(match.start <= other.start() < match.end for match in found):
            end = min((match.start for match in found if match.start > other.start()), default=len(text))
            found.append(_Match(spdx_id, other.start(), end))
    return sorted(found, key=lambda match: match.start)


def _references(text: str) -> list[_Match]:
    return [
        _Match(_BY_NAME[found[found.lastindex or 0].lower()], found.start(), found.end()) for found in _REFERENCE.finditer(text)
    ]


def _between(text: str, matches: list[_Match]) -> list[str]:
    """Return what stands before the first match and between the others."""
    ends = [0, *(match.end for match in matches)]
    return [text[end : match.start] for end, match in zip(ends, matches, strict=False)]


def _distinct_ids(matches: list[_Match], text: str) -> list[str]:
    """Return the SPDX identifiers. A second one of a family belongs to the explanations at the end of a licence."""
    by_family: dict[str, str] = {}
    for match in matches:
        spdx_ids = ["GPL-2.0", "GPL-3.0"] if match.id == "GPL-2.0-or-3.0" else [match.id]
        for spdx_id in spdx_ids:
            by_family.setdefault(_family(spdx_id), spdx_id)
    return [f"LicenseRef-{spdx_id}" if spdx_id in _NOT_SPDX else _with_exception(spdx_id, text) for spdx_id in by_family.values()]


def _family(spdx_id: str) -> str:
    return spdx_id.removesuffix("-or-later").removesuffix("-only")


def _with_exception(spdx_id: str, text: str) -> str:
    for exception, pattern in _EXCEPTIONS.get(_family(spdx_id), {}).items():
        if pattern.search(text):
            return f"{spdx_id} WITH {exception}"
    return spdx_id


def _of_expression(expression: str) -> LicenseText:
    text = re.sub(r"\+(?=[ )]|$)", "-or-later", expression)  # an old form: `GPL-2.0+`
    operators = [operator for operator in ("OR", "AND") if f" {operator} " in text]
    if len(operators) != 1 or "(" in text:
        return LicenseText((text,), coverage=1)
    return LicenseText(tuple(text.split(f" {operators[0]} ")), operators[0], coverage=1)
