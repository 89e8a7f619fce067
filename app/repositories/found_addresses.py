"""Finds the addresses of repositories in any text: a list, a README, a `go.mod`, a `.gitmodules`, a list of packages.

A guess that leads nowhere is left out, such as a link to a page about something else. An address that is certainly meant as one,
such as an entry of a list, is refused with a reason. All patterns take linear time.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from app.analysis import address
from app.analysis.address import FORGE_HOSTS, Address, AddressRefused

MAX_FOUND = 200
MAX_TEXT_LENGTH = 500_000  # characters that callers accept; the most expensive text takes less than a second
MAX_CANDIDATES = 5000  # that are parsed; a text of other people's documents has a few hundred
MAX_SHOWN_LENGTH = 200

NOTHING_FOUND = "No address of a repository was recognised in this line."
RELATIVE = "This address is relative to the repository that the text comes from. Enter the full address."
GO_MODULE = "The path of this Go module does not name the repository. Enter the address of the repository."

# Characters of an address in a sentence, in quotes, in brackets or in a link.
_CHARACTER = r"""[^\s<>"'`(){}\[\]|\\^,;]"""
_IN_TEXT = re.compile(
    rf"(?P<url>(?:git\+)?(?:https?|ssh|git)://{_CHARACTER}{{3,2000}})"
    rf"|(?<![\w.-])(?P<scp>git@[a-z0-9.-]{{1,253}}:{_CHARACTER}{{1,2000}})"
    r"""|(?<![\w.@/-])(?P<site>github|gitlab|bitbucket):[ ]?["']?(?P<short>[\w.-]{1,100}/[\w.-]{1,100})"""
    r"""|"repository":[ ]{0,3}"(?P<npm>[\w.-]{1,100}/[\w.-]{1,100})\""""
    rf"|(?<![\w.@/:%-])(?P<bare>(?:{'|'.join(map(re.escape, sorted(FORGE_HOSTS)))})/{_CHARACTER}{{3,2000}})",
    re.IGNORECASE,
)
_SITES = {"github": "github.com", "gitlab": "gitlab.com", "bitbucket": "bitbucket.org"}
_PUNCTUATION = ".:!?*~"  # that follows an address in a sentence, or is markup
_VERSION = re.compile(r"(?<=[^/:@])@[^/@:]*$")  # as in `name.git@v1.0`, of pip
_SSH_WITH_COLON = re.compile(r"^((?:git\+)?ssh://[^/@:]*@[^/@:]*):(?![0-9/])")  # of npm

_SPACE = re.compile(r"\s")
_BULLET = re.compile(r"(?:[-*+•]|[0-9]{1,4}[.)])\s+")
_OWNER_AND_NAME = re.compile(r"[a-z0-9][a-z0-9-]*/[\w.-]+", re.IGNORECASE)
_HOST_AND_PATH = re.compile(r"[a-z0-9-]+(?:\.[a-z0-9-]+)+(?::[0-9]+)?/\S+", re.IGNORECASE)

_GO_MOD = re.compile(r"^(?:module[ \t]+\S|require[ \t]*\(|require[ \t]+\S+[ \t]+v[0-9])", re.MULTILINE)
_GO_REQUIREMENT = re.compile(r"(?:require[ \t]+)?(?P<path>[\w~-]+(?:\.[\w~-]+)+/\S+)[ \t]+v[0-9]\S*")
_GO_MAJOR_VERSION = re.compile(r"/v[0-9]+$")
_SUBMODULE_URL = re.compile(r"url\s*=\s*(.+)")


@dataclass(frozen=True)
class FoundAddress:
    """An address as it stands in the text, and either the parsed address or why it is refused."""

    text: str
    address: Address | None
    reason: str | None = None


def find_addresses(text: str, roots: Sequence[Path]) -> list[FoundAddress]:
    """Return the addresses in the order of the text, each repository once, up to MAX_FOUND: rather those that are not refused.

    A local path is an address if it is an entry of a list and there are `roots`. `owner/name` is one if it is an entry of a list.
    """
    found: dict[str, FoundAddress] = {}
    parsed: set[tuple[str, bool]] = set()
    spare = MAX_FOUND  # places that addresses leave for refused ones
    for candidate in _candidates(text, has_roots=bool(roots)):
        if not spare or len(parsed) >= MAX_CANDIDATES:
            break
        key = candidate.address, candidate.is_explicit
        one = None if key in parsed else candidate.parse(roots)
        parsed.add(key)
        name = one and (one.address.url if one.address else one.text)
        if one and name and name not in found:
            found[name] = one
            spare -= one.address is not None
    refused = [name for name, one in found.items() if not one.address]
    left_out = set(refused[spare:])
    return [one for name, one in found.items() if name not in left_out]


@dataclass(frozen=True)
class _Candidate:
    """A part of the text. One that is not `is_explicit` is a guess."""

    text: str
    address: str
    is_explicit: bool = False
    reason: str | None = None  # why it cannot be an address

    def parse(self, roots: Sequence[Path]) -> FoundAddress | None:
        """Return None for a wrong guess."""
        try:
            if self.reason:
                raise AddressRefused(self.reason)
            return FoundAddress(_shortened(self.text), address.parse(self.address, roots))
        except AddressRefused as refused:
            return FoundAddress(_shortened(self.text), None, str(refused)) if self.is_explicit else None


def _candidates(text: str, *, has_roots: bool) -> Iterator[_Candidate]:
    lines = [line.strip() for line in text.splitlines()]
    if _GO_MOD.search(text):
        yield from _in_go_mod(lines)
    elif any(line.startswith("[submodule ") for line in lines):
        yield from _in_gitmodules(lines)
    else:
        entries = [entry for line in lines if (entry := _entry(line))]
        likely = sum(_is_entry(entry, has_roots=has_roots) for entry in entries)
        yield from _in_list(entries, has_roots=has_roots) if 2 * likely >= len(entries) else _in_lines(lines)


def _in_lines(lines: Sequence[str]) -> Iterator[_Candidate]:
    for line in lines:
        yield from _in_line(line)


def _in_line(line: str) -> Iterator[_Candidate]:
    for match in _IN_TEXT.finditer(line):
        text = match[0].rstrip(_PUNCTUATION)
        if match["short"]:
            name = match["short"].rstrip(_PUNCTUATION)
            yield _Candidate(f"{match['site']}:{name}", f"{_SITES[match['site'].lower()]}/{name}")
        elif match["npm"]:
            yield _Candidate(match["npm"], match["npm"])
        elif match["scp"] or match["bare"] or _is_repository_url(text):
            yield _Candidate(text, _without_version(text))


def _is_repository_url(url: str) -> bool:
    """Return whether this URL in a sentence leads to a repository, as far as one can see."""
    scheme, _, rest = _without_version(url).partition("://")
    host = rest.partition("/")[0].rpartition("@")[2].partition(":")[0].lower()
    return "http" not in scheme.lower() or scheme.startswith("git+") or host in FORGE_HOSTS or rest.rstrip("/").endswith(".git")


def _in_list(entries: Sequence[str], *, has_roots: bool) -> Iterator[_Candidate]:
    for entry in entries:
        if _is_entry(entry, has_roots=has_roots):
            yield _Candidate(entry, _without_version(entry), is_explicit=True)
        else:
            yield from list(_in_line(entry)) or [_Candidate(entry, entry, is_explicit=True, reason=NOTHING_FOUND)]


def _entry(line: str) -> str:
    """Return the entry in a line of a list, without its bullet, quotes and comment. Empty if it is a comment."""
    if line.startswith(("#", "//")):
        return ""
    bullet = _BULLET.match(line)
    entry = line[bullet.end() :] if bullet else line
    return entry.partition(" #")[0].strip(" \t\"'`,;<>")


def _is_entry(entry: str, *, has_roots: bool) -> bool:
    if entry.startswith("/"):
        return has_roots
    if _SPACE.search(entry):
        return False
    return bool("://" in entry or entry.startswith("git@") or _OWNER_AND_NAME.fullmatch(entry) or _HOST_AND_PATH.fullmatch(entry))


def _in_go_mod(lines: Sequence[str]) -> Iterator[_Candidate]:
    for line in lines:
        inside = [_Candidate(one.text, _GO_MAJOR_VERSION.sub("", one.address)) for one in _in_line(line)]
        requirement = _GO_REQUIREMENT.match(line)
        if requirement and not inside:
            inside = [_Candidate(requirement["path"], requirement["path"], is_explicit=True, reason=GO_MODULE)]
        yield from inside


def _in_gitmodules(lines: Sequence[str]) -> Iterator[_Candidate]:
    for line in lines:
        if setting := _SUBMODULE_URL.match(line):
            url = setting[1].strip("\"' ")
            reason = RELATIVE if url.startswith(("./", "../")) else None
            yield _Candidate(url, url, is_explicit=True, reason=reason)


def _without_version(text: str) -> str:
    """Return an address without the version that lists of packages add to it."""
    return _SSH_WITH_COLON.sub(r"\1/", _VERSION.sub("", text.partition("#")[0]))


def _shortened(text: str) -> str:
    return text if len(text) <= MAX_SHOWN_LENGTH else f"{text[: MAX_SHOWN_LENGTH - 1]}…"
