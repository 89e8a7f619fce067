"""Git over https on loopback, like a hosting service, or like a hostile one.

Paths: `/NAME` or `/NAME.git` of a repository in the folder is served by git itself. `/redirect/N/PATH` leads to PATH by way of N
redirects. What else there is, tests add as functions to `answers`.
"""

from __future__ import annotations

import datetime
import os
import ssl
import subprocess
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Self

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

HOST = "git.test.invalid"  # resolves nowhere, so clients have to be given the address
AUTHOR = {
    "GIT_AUTHOR_NAME": "Ada",
    "GIT_AUTHOR_EMAIL": "ada@example.org",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}
ADVERTISEMENT = "application/x-git-upload-pack-advertisement"
SERVICE = "/info/refs?service=git-upload-pack"

Answer = Callable[["Handler"], None]


def git(folder: Path, *arguments: str, input: str | bytes = b"") -> str:
    """Run git in a folder and return its output."""
    variables = {"PATH": os.environ["PATH"], "HOME": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", **AUTHOR}
    sent = input if isinstance(input, bytes) else input.encode()
    command = ["git", "-c", "init.defaultBranch=main", "-c", "safe.directory=*", *arguments]
    return subprocess.run(command, cwd=folder, env=variables, input=sent, stdout=subprocess.PIPE, check=True).stdout.decode()


def create_repository(path: Path, *options: str, commits: int = 1) -> Path:
    """Create a bare repository whose branch `main` has this many commits."""
    path.mkdir(parents=True)
    git(path, "init", "--quiet", "--bare", *options)
    history = [
        f"commit refs/heads/main\ncommitter Ada <ada@example.org> {1_700_000_000 + number} +0000\ndata <<EOT\n{number}\nEOT\n"
        f"M 100644 inline file\ndata <<EOT\n{number}\nEOT\n"
        for number in range(commits)
    ]
    git(path, "fast-import", "--quiet", input="".join(history))
    return path


class GitServer:
    """A server for the bare repositories of a folder. `authority`: the certificate file of its certificate authority."""

    def __init__(self, folder: Path, certificates: Path, names: tuple[str, ...] = (HOST, "localhost", "127.0.0.1")) -> None:
        self.authority, chain = issue_certificates(certificates, names)
        self.folder = folder
        self.requests: list[str] = []
        self.answers: dict[str, Answer] = {}  # by the beginning of the path
        self.closing = threading.Event()
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(chain)
        self._server = _Server(("127.0.0.1", 0), self, context)
        self.port = int(self._server.server_address[1])

    def url(self, path: str, host: str = HOST) -> str:
        return f"https://{host}:{self.port}/{path}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
        return self

    def __exit__(self, *exception: object) -> None:
        self.closing.set()
        self._server.shutdown()
        self._server.server_close()


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def __init__(self, address: tuple[str, int], owner: GitServer, context: ssl.SSLContext) -> None:
        super().__init__(address, Handler)
        self.owner = owner
        self.context = context

    def finish_request(self, request: Any, client_address: Any) -> None:
        try:
            with self.context.wrap_socket(request, server_side=True) as tls:
                super().finish_request(tls, client_address)
        except OSError:  # the client went away, or did not like the certificate
            pass


class Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    sent_bytes = 0  # in the body of the response

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        owner = self.server.owner
        owner.requests.append(f"{self.command} {self.path}")
        self.close_connection = True
        answer = next((answer for start, answer in owner.answers.items() if self.path.startswith(start)), serve)
        answer(self)

    do_POST = do_GET

    def reply(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)
        self.sent_bytes = len(body)


def redirect(status: int, location: str) -> Answer:
    return lambda handler: handler.reply(status, Location=location)


def as_of_old(handler: Handler) -> None:
    """Answer in version 1 of the protocol, which does not advertise a HEAD without a branch."""
    del handler.headers["Git-Protocol"]
    serve(handler)


def error(status: int) -> Answer:
    return lambda handler: handler.reply(status, b"an error page", Content_Type="text/html")


def hang(handler: Handler) -> None:
    """Send nothing until the server ends."""
    handler.server.owner.closing.wait()


def trickle(handler: Handler) -> None:
    """Send headers slowly and without an end."""
    handler.send_response(200)
    handler.flush_headers()
    while not handler.server.owner.closing.wait(0.05):
        handler.wfile.write(b"X-More: of the same\r\n")


def endless(handler: Handler) -> None:
    """Send an endless body of the right content type."""
    handler.send_response(200)
    handler.send_header("Content-Type", ADVERTISEMENT)
    handler.end_headers()
    while not handler.server.owner.closing.is_set():
        handler.wfile.write(b"0" * 65536)


def serve(handler: Handler) -> None:
    path, _, query = handler.path.partition("?")
    if path.startswith("/redirect/"):
        _, _, count, rest = handler.path.split("/", 3)
        target = rest if count == "1" else f"redirect/{int(count) - 1}/{rest}"
        return handler.reply(302, Location=f"/{target}")
    name, _, service = path.lstrip("/").partition("/")
    folder = handler.server.owner.folder
    found = next((folder / it for it in (name, f"{name}.git") if (folder / it / "HEAD").is_file()), None)
    if found is None or not service:
        return handler.reply(404, b"no such page")
    return _by_git(handler, f"{found.name}/{service}", query)


def _by_git(handler: Handler, path: str, query: str) -> None:
    variables = {
        "PATH": os.environ["PATH"],
        "GIT_PROJECT_ROOT": str(handler.server.owner.folder),
        "GIT_HTTP_EXPORT_ALL": "1",
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_CONFIG_COUNT": "1",
        "GIT_CONFIG_KEY_0": "safe.directory",
        "GIT_CONFIG_VALUE_0": "*",
        "REQUEST_METHOD": handler.command,
        "PATH_INFO": f"/{path}",
        "QUERY_STRING": query,
        "CONTENT_TYPE": handler.headers.get("Content-Type", ""),
        "HTTP_CONTENT_ENCODING": handler.headers.get("Content-Encoding", ""),
        "GIT_PROTOCOL": handler.headers.get("Git-Protocol", ""),
        "REMOTE_ADDR": "127.0.0.1",
    }
    body = _body(handler)
    variables["CONTENT_LENGTH"] = str(len(body))
    done = subprocess.run(["git", "http-backend"], env=variables, input=body, capture_output=True, check=False)
    head, _, content = done.stdout.partition(b"\r\n\r\n")
    headers = dict(line.split(": ", 1) for line in head.decode().split("\r\n"))
    status = int(headers.pop("Status", "200").split()[0])
    handler.reply(status, content, **headers)


def _body(handler: Handler) -> bytes:
    if handler.headers.get("Transfer-Encoding") != "chunked":
        return handler.rfile.read(int(handler.headers.get("Content-Length", "0")))
    body = b""
    while size := int(handler.rfile.readline(), 16):
        body += handler.rfile.read(size)
        handler.rfile.readline()
    return body


def issue_certificates(folder: Path, names: tuple[str, ...], *, days: float = 7) -> tuple[Path, Path]:
    """Create a certificate authority, and a server certificate with its key. `days`: from now until the latter expires."""
    authority_key, key = ec.generate_private_key(ec.SECP256R1()), ec.generate_private_key(ec.SECP256R1())
    authority = _certificate(
        "Test authority", "Test authority", authority_key, authority_key, names=(), is_authority=True, days=60
    )
    certificate = _certificate(names[0], "Test authority", key, authority_key, names=names, is_authority=False, days=days)
    authority_file, chain = folder / "authority.pem", folder / "server.pem"
    authority_file.write_bytes(authority.public_bytes(serialization.Encoding.PEM))
    private = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    chain.write_bytes(private + certificate.public_bytes(serialization.Encoding.PEM))
    return authority_file, chain


def _certificate(
    subject: str,
    issuer: str,
    key: ec.EllipticCurvePrivateKey,
    by: ec.EllipticCurvePrivateKey,
    *,
    names: tuple[str, ...],
    is_authority: bool,
    days: float,
) -> x509.Certificate:
    now = datetime.datetime.now(datetime.UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=days))
        .add_extension(x509.BasicConstraints(ca=is_authority, path_length=None), critical=True)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(by.public_key()), critical=False)
    )
    if is_authority:
        usage = x509.KeyUsage(False, False, False, False, False, True, True, False, False)
        builder = builder.add_extension(usage, critical=True)
    if names:
        builder = builder.add_extension(x509.SubjectAlternativeName([_general_name(name) for name in names]), critical=False)
    return builder.sign(by, hashes.SHA256())


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ip_address(name))
    except ValueError:
        return x509.DNSName(name)
