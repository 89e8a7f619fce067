"""Parses addresses of repositories: https URLs, and paths of local repositories below the allowed folders."""

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

_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# Some resolvers accept these as IPv4 addresses: decimal, octal and hexadecimal numbers with at most three dots.
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(:[0-9]*)?", re.IGNORECASE)
_UNQUOTED_IN_PATHS = "%!$&'()*+,;=:@-._~"  # RFC 3986: characters that need no escape, and "%", as escapes stay as they are


class AddressRefused(ValueError):
    """The address is invalid or not allowed. The text is shown to users."""


@dataclass(frozen=True)
class Address:
    """`url` is normalised; it is stored, shown and fetched. A trailing `.git` is kept, since many servers require it."""

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
    """Parse an https URL, or the absolute path of a repository below one of the `roots`. Raises AddressRefused."""
    text = text.strip(" ")
    if not text or len(text) > MAX_LENGTH:
        raise AddressRefused(f"The address must have 1 to {MAX_LENGTH} characters.")
    is_path = text.startswith("/")
    if not text.isprintable() or (" " in text and not is_path):
        raise AddressRefused("The address must not contain spaces or invisible characters.")
    return _parse_local(text, roots) if is_path else _parse_remote(text)


def _parse_remote(text: str) -> Address:
    if not text.lower().startswith("https://"):
        raise AddressRefused("The address must begin with https://, for example https://github.com/pallets/flask.")
    if "?" in text or "#" in text or "\\" in text:
        raise AddressRefused("The address must not contain “?”, “#” or “\\”.")
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
    authority = (f"[{host}]" if ":" in host else host) + ("" if port == HTTPS_PORT else f":{port}")
    url = f"https://{authority}/{'/'.join(segments)}"
    if len(url) > MAX_LENGTH:
        raise AddressRefused(f"The address must have 1 to {MAX_LENGTH} characters.")
    return Address(url, "/".join(segments[-2:]).removesuffix(".git")[-MAX_NAME_LENGTH:], host, port)


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
    # One text for all cases, which reveals nothing about other files of this machine.
    if repository is None:
        raise AddressRefused("There is no git repository at this path, or the path is not below an allowed folder.")
    if len(str(path).encode()) > MAX_LENGTH:
        raise AddressRefused(f"The path must not be longer than {MAX_LENGTH} bytes.")
    name = path.name.removesuffix(".git") or path.parent.name or str(path)  # a link may lead to a folder ".git"
    return Address(str(path), name[:MAX_NAME_LENGTH], repository=repository)
