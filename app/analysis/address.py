"""Parses addresses of repositories: what people copy from a browser or a terminal, and paths below the allowed folders.

All addresses of one repository on a well-known forge become the same URL, so that it is stored and analysed once.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, quote, unquote, urlsplit

from app.analysis.local import LocalRepository

MAX_LENGTH = 2000
MAX_NAME_LENGTH = 255
HTTPS_PORT = 443
ANYWHERE = Path("/")  # as a root: any local repository is allowed

_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Some resolvers accept these as IPv4 addresses: decimal, octal and hexadecimal numbers with at most three dots.
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(:[0-9]*)?", re.IGNORECASE)
_UNQUOTED_IN_PATHS = "%!$&'()*+,;=:@-._~"  # RFC 3986: characters that need no escape, and "%", as escapes stay as they are

_URL = re.compile(r"(?:git\+)?([a-z]+)://([^/?#]*)(.*)", re.IGNORECASE)
_SSH_AUTHORITY = re.compile(r"(?:[^@:]*@)?(\[[0-9a-f:.]+\]|[^@\[\]:]+)(?::[0-9]*)?", re.IGNORECASE)
# The form `user@host:path`. Without a user, the host must have a dot, and the path must not begin with a port.
_SCP = re.compile(r"(?:[^@:/]+@|(?=[^@:/]*\.))([^@:/\[\]]+):(?![0-9]+(?:/|$))/*([^:]+)")
_OWNER_AND_NAME = re.compile(r"[a-z0-9][a-z0-9-]*/[\w.-]+(/.*)?", re.IGNORECASE)  # of GitHub
_EXAMPLE = "for example https://github.com/pallets/flask"


@dataclass(frozen=True)
class _Forge:
    """How a well-known site builds its addresses: `/owner/name`, then the page of the repository, which is left out."""

    has_subgroups: bool = False  # GitLab: any number of groups before the name
    ignores_case: bool = False
    other_pages: frozenset[str] = frozenset()  # in place of an owner: pages that belong to no repository


_GITEA = _SOURCEHUT = _Forge()
_BITBUCKET = _Forge(other_pages=frozenset({"account", "blog", "dashboard", "product", "repo", "support", "workspaces"}))
_GITLAB_PAGES = "- admin api dashboard explore groups help public search users"
_GITLAB = _Forge(has_subgroups=True, other_pages=frozenset(_GITLAB_PAGES.split()))
_GITHUB_PAGES = (
    "about account advisories apps codespaces collections contact customer-stories dashboard enterprise explore features issues"
    " join login logout marketplace new notifications organizations orgs pricing pulls readme search security sessions settings"
    " signup site solutions sponsors stars topics trending user-attachments users watching"
)
_GITHUB = _Forge(ignores_case=True, other_pages=frozenset(_GITHUB_PAGES.split()))
_FORGES = {
    "github.com": _GITHUB,
    "gitlab.com": _GITLAB,
    "gitlab.gnome.org": _GITLAB,
    "gitlab.freedesktop.org": _GITLAB,
    "salsa.debian.org": _GITLAB,
    "invent.kde.org": _GITLAB,
    "framagit.org": _GITLAB,
    "bitbucket.org": _BITBUCKET,
    "codeberg.org": _GITEA,
    "gitea.com": _GITEA,
    "git.sr.ht": _SOURCEHUT,
}
_OTHER_NAMES = {
    "www.github.com": "github.com",
    "ssh.github.com": "github.com",
    "raw.githubusercontent.com": "github.com",
    "www.gitlab.com": "gitlab.com",
    "altssh.gitlab.com": "gitlab.com",
    "www.bitbucket.org": "bitbucket.org",
    "altssh.bitbucket.org": "bitbucket.org",
    "www.codeberg.org": "codeberg.org",
}
FORGE_HOSTS = frozenset({*_FORGES, *_OTHER_NAMES})
# What can follow the name in old addresses of GitLab, which had no `/-/` before it. No project can have such a name.
_OLD_GITLAB_PAGES = {"tree", "blob", "blame", "raw", "commits", "edit", "builds", "files", "refs", "wikis"}


class AddressRefused(ValueError):
    """The address is invalid or not allowed. The text is shown to users."""


@dataclass(frozen=True)
class Address:
    """`url` is normalised; it is stored, shown and fetched. A trailing `.git` is kept for hosts that may require it."""

    url: str
    name: str
    host: str = ""  # without brackets; empty for a local repository
    port: int = HTTPS_PORT
    repository: LocalRepository | None = field(default=None, compare=False)

    @property
    def is_local(self) -> bool:
        return not self.host

    @property
    def path(self) -> str:
        return urlsplit(self.url).path


def parse(text: str, roots: Sequence[Path]) -> Address:
    """Parse the address of a repository, or the absolute path of one below one of the `roots`. Raises AddressRefused.

    Addresses for SSH and `git://`, of pages of a repository, and without `https://` lead to the same https URL. `owner/name` is
    a repository on GitHub.
    """
    text = text.strip(" ")
    if not text or len(text) > MAX_LENGTH:
        raise AddressRefused(f"The address must have 1 to {MAX_LENGTH} characters.")
    is_path = text.startswith("/")
    if not text.isprintable() or (" " in text and not is_path):
        raise AddressRefused("The address must not contain spaces or invisible characters.")
    return _parse_local(text, roots) if is_path else _parse_remote(_as_https(text))


def _as_https(text: str) -> str:
    """Return the https URL of an address in one of the other forms that people copy."""
    if url := _URL.fullmatch(text):
        return _change_scheme(url[1].lower(), url[2], url[3])
    if scp := _SCP.fullmatch(text):
        return f"https://{scp[1]}/{scp[2]}"
    if _OWNER_AND_NAME.fullmatch(text):
        return f"https://github.com/{text}"
    if "." in text.partition("/")[0] and not text.startswith("."):
        return f"https://{text}"
    raise AddressRefused(f"Enter the address of a repository, {_EXAMPLE} or pallets/flask.")


def _change_scheme(scheme: str, authority: str, rest: str) -> str:
    match scheme:
        case "https":
            return f"https://{authority}{rest}"
        case "http" if re.search(r":[0-9]+$", authority) and not authority.endswith(":80"):
            raise AddressRefused("Repositories are fetched with https only. Enter the address that begins with https://.")
        case "http":
            return f"https://{authority.removesuffix(':80')}{rest}"
        case "ssh" | "git":
            if host := _SSH_AUTHORITY.fullmatch(authority):  # its port is not the one of https
                return f"https://{host[1]}{rest}"
            _refuse_host()
    raise AddressRefused(f"The address must begin with https://, {_EXAMPLE}.")


def parse_url(text: str) -> Address:
    """Parse an https URL as it stands, such as the target of a redirect. Raises AddressRefused."""
    _refuse_query(text)
    return _address(*_split(text))


def _parse_remote(text: str) -> Address:
    """Parse an https URL, and reduce it to the repository as the site builds its addresses."""
    host, port, segments = _split(text)
    host = _OTHER_NAMES.get(host, host)
    if forge := _FORGES.get(host):
        return _address(host, HTTPS_PORT, _find_repository(forge, segments))
    _refuse_query(text)
    return _address(host, port, _without_page(segments))


def _refuse_query(text: str) -> None:
    if "?" in text or "#" in text:
        raise AddressRefused("The address must not contain “?” or “#”.")


def _split(text: str) -> tuple[str, int, list[str]]:
    """Return the host, the port and the segments of the path of an https URL, without its query."""
    if not text.lower().startswith("https://"):
        raise AddressRefused(f"The address must begin with https://, {_EXAMPLE}.")
    if "\\" in text:
        raise AddressRefused("The address must not contain “\\”.")
    try:
        parts = urlsplit(text)
        port = HTTPS_PORT if parts.port is None else parts.port
    except ValueError:
        raise AddressRefused("This is not a valid address.") from None
    if "@" in parts.netloc:
        raise AddressRefused("The address must not contain a user name or password.")
    if not _AUTHORITY.fullmatch(parts.netloc) or port == 0:
        _refuse_host()
    host = _parse_host(parts)
    segments = [quote(segment, safe=_UNQUOTED_IN_PATHS) for segment in parts.path.split("/") if segment]
    if not segments or any(unquote(segment) in (".", "..") for segment in segments):
        raise AddressRefused("The address has no valid path of a repository.")
    return host, port, segments


def _address(host: str, port: int, segments: list[str]) -> Address:
    authority = (f"[{host}]" if ":" in host else host) + ("" if port == HTTPS_PORT else f":{port}")
    url = f"https://{authority}/{'/'.join(segments)}"
    if len(url) > MAX_LENGTH:
        raise AddressRefused(f"The address must have 1 to {MAX_LENGTH} characters.")
    return Address(url, "/".join(segments[-2:]).removesuffix(".git")[-MAX_NAME_LENGTH:], host, port)


def _without_page(segments: list[str]) -> list[str]:
    """Remove the page of a repository, which begins with `/-/` in addresses of GitLab, on any host."""
    return segments[: segments.index("-", 2)] if "-" in segments[2:] else segments


def _find_repository(forge: _Forge, segments: list[str]) -> list[str]:
    """Return the owner and the name of a repository on a well-known forge, from the address of it or of one of its pages."""
    length = 2
    if forge.has_subgroups:
        segments = _without_page(segments)
        length = next((number for number in range(2, len(segments)) if _is_old_page(segments[number:])), len(segments))
    if forge.ignores_case:
        segments = [segment.lower() for segment in segments]
    *groups, name = segments[:length]
    name = name.removesuffix(".git")
    if not groups or not name or groups[0] in forge.other_pages:
        raise AddressRefused(f"The address must name an owner and a repository, {_EXAMPLE}.")
    return [*groups, name]


def _is_old_page(segments: list[str]) -> bool:
    if segments[0] in ("issues", "merge_requests"):  # they could also be names of projects
        return len(segments) > 1 and segments[1].isdigit()
    return segments[0] in _OLD_GITLAB_PAGES


def _parse_host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    try:
        if "[" in parts.netloc:
            return str(IPv6Address(host))
        if _NUMERIC.fullmatch(host):
            return str(IPv4Address(host))
        host = host.encode("idna").decode().lower().removesuffix(".")
    except ValueError:  # UnicodeError is a ValueError
        _refuse_host()
    if not _HOST_NAME.fullmatch(host) or _NUMERIC.fullmatch(host.rpartition(".")[2]):
        _refuse_host()
    return host


def _refuse_host() -> NoReturn:
    raise AddressRefused("The host name in this address is not valid.")


def _parse_local(text: str, roots: Sequence[Path]) -> Address:
    try:
        path = Path(text)
        path = (path.parent if path.name == ".git" else path).resolve(strict=True)
        repository = LocalRepository(path, roots) if str(path).isprintable() else None
    except (OSError, RuntimeError, ValueError):
        repository = None
    if repository is None and ANYWHERE in roots:
        raise AddressRefused("There is no git repository at this path.")
    # One text for all cases, which reveals nothing about other files of this machine.
    if repository is None:
        raise AddressRefused("There is no git repository at this path, or the path is not below an allowed folder.")
    if len(str(path).encode()) > MAX_LENGTH:
        raise AddressRefused(f"The path must not be longer than {MAX_LENGTH} bytes.")
    name = path.name.removesuffix(".git") or path.parent.name or str(path)  # a link may lead to a folder ".git"
    return Address(str(path), name[:MAX_NAME_LENGTH], repository=repository)
