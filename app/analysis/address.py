"""Addresses of repositories: which may be fetched at all, and what they are called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from pathlib import Path
from urllib.parse import urlsplit

MAX_LENGTH = 2000
HTTPS_PORT = 443

_HOST_NAME = re.compile(r"(?=.{1,253}$)([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")
# What some resolvers take for an IPv4 address: decimal, octal and hexadecimal numbers, with fewer than three dots.
_NUMERIC = re.compile(r"(0x[0-9a-f]*|[0-9]+)(\.(0x[0-9a-f]*|[0-9]+))*")


class AddressRefused(ValueError):
    """The text says why, to whoever gave the address."""


@dataclass(frozen=True)
class Address:
    url: str  # normalised: what is stored, shown and fetched
    name: str
    host: str = ""  # without brackets; empty for a folder of this machine
    port: int = HTTPS_PORT

    @property
    def is_local(self) -> bool:
        return not self.host


def parse(text: str, roots: Sequence[Path]) -> Address:
    """Of an https URL, or of the absolute path of a repository below one of the folders. Raises AddressRefused."""
    text = text.strip()
    if not text or len(text) > MAX_LENGTH:
        raise AddressRefused(f"An address has from 1 to {MAX_LENGTH} characters.")
    if not text.isprintable() or (re.search(r"\s", text) and not text.startswith("/")):
        raise AddressRefused("An address has no spaces and no invisible characters in it.")
    return _local(text, roots) if text.startswith("/") else _remote(text)


def _remote(text: str) -> Address:
    try:
        parts = urlsplit(text)
        port = parts.port or HTTPS_PORT
    except ValueError:
        raise AddressRefused("This is not an address.") from None
    if parts.scheme.lower() != "https" or not text[6:].startswith("//"):
        raise AddressRefused("An address begins with https://, such as https://github.com/pallets/flask.")
    if "@" in parts.netloc:
        raise AddressRefused("An address must not have a user name or a password in it.")
    if "?" in text or "#" in text or "\\" in text:
        raise AddressRefused("An address of a repository has no “?”, no “#” and no “\\” in it.")
    host = _host(parts.hostname or "", bracketed="[" in parts.netloc)
    segments = [segment for segment in parts.path.split("/") if segment]
    if not segments or any(segment in (".", "..") for segment in segments):
        raise AddressRefused("The path of the repository is missing in this address.")
    authority = (f"[{host}]" if ":" in host else host) + ("" if port == HTTPS_PORT else f":{port}")
    return Address(f"https://{authority}/{'/'.join(segments)}", _name(segments), host, port)


def _host(host: str, *, bracketed: bool) -> str:
    try:
        if bracketed:
            return str(IPv6Address(host)) if "%" not in host else _no_host()
        if _NUMERIC.fullmatch(host):
            return str(IPv4Address(host))
        host = host.rstrip(".").encode("idna").decode().lower()
    except ValueError:  # UnicodeError is one
        _no_host()
    if not _HOST_NAME.fullmatch(host) or _NUMERIC.fullmatch(host.rpartition(".")[2]):
        _no_host()
    return host


def _no_host() -> str:
    raise AddressRefused("The name of the server in this address is not one.")


def _name(segments: Sequence[str]) -> str:
    """`owner/name`."""
    return "/".join(segments[-2:]).removesuffix(".git")[-255:]


def _local(text: str, roots: Sequence[Path]) -> Address:
    try:
        path = Path(text).resolve(strict=True)
        allowed = any(path.is_relative_to(root.resolve()) for root in roots)
        is_repository = allowed and ((path / "HEAD").is_file() or (path / ".git").exists())
    except (OSError, RuntimeError, ValueError):
        allowed = is_repository = False
    # One sentence for all of it: what there is elsewhere on this machine is nobody's business.
    if not is_repository:
        raise AddressRefused("There is no git repository at this path, or its folder is not one of those that may be analysed.")
    if path.name == ".git":
        path = path.parent
    return Address(str(path), path.name.removesuffix(".git")[:255] or str(path))
