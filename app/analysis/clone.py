"""Fetching a repository, from nowhere but the address that was checked."""

from __future__ import annotations

import http.client
import os
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from ipaddress import IPv6Address
from pathlib import Path
from typing import IO

from app.analysis import git, network
from app.analysis.address import Address, AddressRefused, parse
from app.analysis.failures import Failure
from app.analysis.network import IP, Network, Unresolvable

MAX_REDIRECTS = 5
CONNECT_SECONDS = 10.0
SERVICE = "/info/refs?service=git-upload-pack"
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
POLL_SECONDS = 0.2
MAX_COMPLAINT_BYTES = 4000

REDIRECTS = {301, 302, 303, 307, 308}
MISSING = {401, 403, 404, 410, 451}

# git's own words on what it is doing, and the part of the fetch that this is, in percent.
STEPS = {
    b"Counting objects": (0, 3),
    b"Compressing objects": (3, 5),
    b"Receiving objects": (5, 80),
    b"Resolving deltas": (80, 100),
}
_PROGRESS = re.compile(rb"([A-Z][a-z]+ (?:objects|deltas)): +(\d+)%")

Progress = Callable[[float, str], None]  # from 0 to 1, and what is done


def fetch(address: Address, folder: Path, allowed: Sequence[Network], max_bytes: int, progress: Progress) -> git.Repository:
    """A bare clone of it in that folder, with all branches and tags. Raises Failure."""
    progress(0, "Connecting")
    options = _options_of_all()
    if address.is_local:
        options |= {"protocol.file.allow": "always"}
    else:
        address, addresses = _find(address, allowed)
        options |= {"protocol.https.allow": "always", "http.curloptResolve": _pin(address, addresses)}
    return _clone(address.url, folder, options, max_bytes, progress)


def _options_of_all() -> dict[str, str]:
    return {
        "protocol.allow": "never",
        "http.followRedirects": "false",
        "http.lowSpeedLimit": "1000",  # bytes a second, for
        "http.lowSpeedTime": "30",  # seconds
        "core.hooksPath": os.devnull,
        "core.bigFileThreshold": "8m",  # larger ones are not held in memory
        "core.packedGitWindowSize": "32m",
        "core.packedGitLimit": "256m",
        "core.deltaBaseCacheLimit": "64m",
        "pack.threads": "1",
        "credential.helper": "",
        "gc.auto": "0",
    }


def _pin(address: Address, addresses: Sequence[IP]) -> str:
    """For curl: this host name, at this port, is at these addresses, whatever its name server says by now."""
    return f"{address.host}:{address.port}:{','.join(_in_url(ip) for ip in addresses)}"


def _in_url(ip: IP) -> str:
    return f"[{ip}]" if isinstance(ip, IPv6Address) else str(ip)


# Where it is.


def _find(address: Address, allowed: Sequence[Network]) -> tuple[Address, list[IP]]:
    """The address that redirects lead to in the end, and the machines there; each of them checked."""
    for _ in range(MAX_REDIRECTS + 1):
        try:
            addresses = network.check(address.host, address.port, allowed)
        except Unresolvable:
            raise Failure(f"The name of the server, {address.host}, can't be resolved.", permanent=False) from None
        except AddressRefused as refused:
            raise Failure(str(refused), permanent=True) from None
        location = _ask(address, addresses)
        if location is None:
            return address, addresses
        address = _redirected(address, location)
    raise Failure("There are too many redirects at this address.", permanent=True)


def _redirected(address: Address, location: str) -> Address:
    if location.startswith("/"):
        location = address.url[: address.url.index("/", len("https://"))] + location
    try:
        if not location.endswith(SERVICE):
            raise AddressRefused("there is a page")
        return parse(location.removesuffix(SERVICE), roots=())
    except AddressRefused:
        raise Failure("This address leads on to one that is not that of a repository.", permanent=True) from None


def _ask(address: Address, addresses: Sequence[IP]) -> str | None:
    """Whether there is a repository: None, or where else to look. Raises Failure."""
    try:
        with _connect(address, addresses) as tls:
            connection = http.client.HTTPConnection(address.host, address.port)
            connection.sock = tls
            path = address.url[address.url.index("/", len("https://")) :]
            headers = {"User-Agent": "git/2 (RepoRadar)", "Accept": "*/*", "Git-Protocol": "version=2"}
            connection.request("GET", path.encode("ascii", "strict").decode() + SERVICE, headers=headers)
            response = connection.getresponse()
            return _judge(response.status, response.headers.get("Content-Type", ""), response.headers.get("Location", ""))
    except ssl.SSLCertVerificationError:
        raise Failure("The certificate of the server is not valid.", permanent=True) from None
    except UnicodeEncodeError:
        raise Failure("This is not an address.", permanent=True) from None
    except (OSError, http.client.HTTPException):
        raise Failure("The server can't be reached.", permanent=False) from None


def _judge(status: int, content_type: str, location: str) -> str | None:
    if status in REDIRECTS and location:
        return location
    if status in MISSING:
        raise Failure("There is no public repository at this address.", permanent=True)
    if status != 200:
        raise Failure(f"The server answers with an error ({status}).", permanent=status < 500 and status != 429)
    if content_type.partition(";")[0].strip().lower() != ADVERTISEMENT:
        raise Failure("There is no git repository at this address.", permanent=True)
    return None


def _connect(address: Address, addresses: Sequence[IP]) -> ssl.SSLSocket:
    context = ssl.create_default_context(cafile=_certificates())
    problem: OSError = ConnectionError()
    for ip in addresses:
        try:
            plain = socket.create_connection((str(ip), address.port), timeout=CONNECT_SECONDS)
        except OSError as error:
            problem = error
            continue
        try:
            return context.wrap_socket(plain, server_hostname=address.host)
        except BaseException:
            plain.close()
            raise
    raise problem


def _certificates() -> str | None:
    """Of authorities, if the operator has some of their own."""
    return os.environ.get("GIT_SSL_CAINFO") or os.environ.get("SSL_CERT_FILE") or None


# Getting it.


def _clone(url: str, folder: Path, options: dict[str, str], max_bytes: int, progress: Progress) -> git.Repository:
    path = folder / "repository"
    settings = folder / "gitconfig"
    settings.write_text("[safe]\n\tdirectory = *\n")  # whose folder it is, is up to the operator
    arguments = [argument for name, value in options.items() for argument in ("-c", f"{name}={value}")]
    command = ["git", *arguments, "clone", "--bare", "--no-local", "--template=", "--progress", "--", url, str(path)]
    variables = git.environment() | {"GIT_CONFIG_GLOBAL": str(settings)}
    if certificates := _certificates():
        variables["GIT_SSL_CAINFO"] = certificates
    with git.popen(command, variables) as process:
        assert process.stderr is not None
        reader = _Reader(process.stderr, progress)
        try:
            while process.poll() is None:
                if size_of(path) > max_bytes:
                    raise Failure(f"The repository is larger than {max_bytes // 1024**2} MB.", permanent=True)
                time.sleep(POLL_SECONDS)
        finally:
            process.kill()
        reader.join()
    if process.returncode != 0 or not (path / "HEAD").is_file():
        raise _failure(reader.complaint, max_bytes)
    if size_of(path) > max_bytes:
        raise Failure(f"The repository is larger than {max_bytes // 1024**2} MB.", permanent=True)
    progress(1, "Fetched")
    return git.Repository(path)


class _Reader(threading.Thread):
    """Of what git says meanwhile."""

    def __init__(self, output: IO[bytes], progress: Progress) -> None:
        super().__init__(daemon=True)
        self.complaint = b""
        self._output = output
        self._progress = progress
        self._last = 0.0
        self.start()

    def run(self) -> None:
        descriptor = self._output.fileno()
        with suppress(OSError, ValueError):
            while chunk := os.read(descriptor, 4096):
                self.complaint = (self.complaint + chunk)[-MAX_COMPLAINT_BYTES:]
                for found in _PROGRESS.finditer(chunk):
                    self._report(found[1], int(found[2]))

    def _report(self, step: bytes, percent: int) -> None:
        if step in STEPS:
            begin, end = STEPS[step]
            self._last = max(self._last, (begin + (end - begin) * min(percent, 100) / 100) / 100)
            self._progress(self._last, step.decode())


def _failure(complaint: bytes, max_bytes: int) -> Failure:
    said = git.printable(complaint)
    if "File size limit" in said or "File too large" in said:
        return Failure(f"The repository is larger than {max_bytes // 1024**2} MB.", permanent=True)
    if "not found" in said or "could not read Username" in said or "does not appear to be a git repository" in said:
        return Failure("There is no public repository at this address.", permanent=True)
    if "Operation too slow" in said:
        return Failure("The server is too slow.", permanent=False)
    fatal = [line for line in re.split(r"[\n?]", said) if line.startswith(("fatal:", "error:"))]
    return Failure(f"git could not fetch it: {fatal[-1][:200] if fatal else 'no reason given'}", permanent=False)


def size_of(path: Path) -> int:
    """In bytes; files may vanish meanwhile."""
    total = 0
    for folder, _, files in os.walk(path):
        for name in files:
            with suppress(OSError):
                total += os.lstat(os.path.join(folder, name)).st_blocks * 512  # noqa: PTH118 - quick, and often
    return total
