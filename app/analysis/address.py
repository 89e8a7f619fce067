"""Addresses of repositories: which may be fetched at all, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from typing import NoReturn
from urllib.parse import SplitResult, quote, unquote, urlsplit

MAX_LENGTH = 2000
MAX_NAME_LENGTH = 255
HTTPS_PORT = 443

_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What some resolvers take for an IPv4 address: decimal, octal and hexadecimal numbers, with fewer than three dots.
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[^\[\]:]+)(:[0-9]*)?", re.IGNORECASE)
_KEPT_IN_PATHS = "%!$&'()*+,;=:@-._~"  # RFC 3986: all that needs no percent sign, and the percent signs themselves


class AddressRefused(ValueError):
    """The text says why, to whoever gave the address."""


@dataclass(frozen=True)
class Address:
    """`url` is normalised: it is what is stored, shown and fetched. A trailing `.git` stays, since many servers need it."""

    url: str
    name: str
    host: str = ""  # without brackets; empty for a folder of this machine
    port: int = HTTPS_PORT

    @property
    def is_local(self) -> bool:
        return not self.host

    @property
    def path(self) -> str:
        """Of a URL: what follows the server."""
        return urlsplit(self.url).path


def parse(text: str, roots: Sequence[Path]) -> Address:
    """Of an https URL, or of the absolute path of a repository below one of the folders. Raises AddressRefused."""
    text = text.strip(" ")
    if not text or len(text) > MAX_LENGTH:
        raise AddressRefused(f"An address has from 1 to {MAX_LENGTH} characters.")
    is_path = text.startswith("/")
    if not text.isprintable() or (" " in text and not is_path):
        raise AddressRefused("An address has no spaces and no invisible characters in it.")
    return _local(text, roots) if is_path else _remote(text)


def _remote(text: str) -> Address:
    if not text.lower().startswith("https://"):
        raise AddressRefused("An address begins with https://, such as https://github.com/pallets/flask.")
    if "?" in text or "#" in text or "\\" in text:
        raise AddressRefused("An address of a repository has no “?”, no “#” and no “\\” in it.")
    try:
        parts = urlsplit(text)
        port = HTTPS_PORT if parts.port is None else parts.port
    except ValueError:
        raise AddressRefused("This is not an address.") from None
    if "@" in parts.netloc:
        raise AddressRefused("An address must not have a user name or a password in it.")
    if not _AUTHORITY.fullmatch(parts.netloc) or port == 0:
        _no_host()
    host = _host(parts)
    segments = [quote(segment, safe=_KEPT_IN_PATHS) for segment in parts.path.split("/") if segment]
    if not segments or any(unquote(segment) in (".", "..") for segment in segments):
        raise AddressRefused("The path of the repository is missing in this address.")
    authority = (f"[{host}]" if ":" in host else host) + ("" if port == HTTPS_PORT else f":{port}")
    url = f"https://{authority}/{'/'.join(segments)}"
    if len(url) > MAX_LENGTH:
        raise AddressRefused(f"An address has from 1 to {MAX_LENGTH} characters.")
    return Address(url, "/".join(segments[-2:]).removesuffix(".git")[-MAX_NAME_LENGTH:], host, port)


def _host(parts: SplitResult) -> str:
    host = parts.hostname or ""
    try:
        if "[" in parts.netloc:
            return str(IPv6Address(host))
        if _NUMERIC.fullmatch(host):
            return str(IPv4Address(host))
        host = host.encode("idna").decode().lower().removesuffix(".")
    except ValueError:  # UnicodeError is one
        _no_host()
    if not _HOST_NAME.fullmatch(host) or _NUMERIC.fullmatch(host.rpartition(".")[2]):
        _no_host()
    return host


def _no_host() -> NoReturn:
    raise AddressRefused("The name of the server in this address is not one.")


def _local(text: str, roots: Sequence[Path]) -> Address:
    try:
        path = Path(text).resolve(strict=True)
        is_repository = _is_repository(path, [root.resolve() for root in roots])
    except (OSError, RuntimeError, ValueError):
        is_repository = False
    # One sentence for all of it: what there is elsewhere on this machine is nobody's business.
    if not is_repository or not str(path).isprintable():
        raise AddressRefused("There is no git repository at this path, or its folder is not one of those that may be analysed.")
    if path.name == ".git":
        path = path.parent
    return Address(str(path), path.name.removesuffix(".git")[:MAX_NAME_LENGTH] or str(path))


def _is_repository(path: Path, roots: Sequence[Path]) -> bool:
    """A bare one or a work tree, whose git folder is not somewhere else: a link or a file named .git could lead anywhere."""
    folder = path / ".git" if (path / ".git").exists() else path
    is_below = any(folder.resolve(strict=True).is_relative_to(root) for root in roots)
    return is_below and path.is_dir() and (folder / "HEAD").is_file() and (folder / "objects").is_dir()
