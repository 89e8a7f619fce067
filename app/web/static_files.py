"""The files below /static/. Each is read and compressed once per process.

Pages use addresses with the digest of all files, `/static/<digest>/live.js`, which browsers may keep for a year without asking
again. Because every file has the same digest in its address, a module imports its neighbours by relative addresses. Pages that
operators add to the site use `/static/live-socket.js`, which browsers revalidate. ETags depend on the content only, so all
instances agree.
"""

import functools
import gzip
import hashlib
import mimetypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from flask import Flask, Response, abort, request
from markupsafe import Markup
from werkzeug.routing import BaseConverter

FOLDER = Path(__file__).with_name("static")
DIGEST_CHARACTERS = 16
MIN_SAVING = 0.9  # a file that gzip does not shrink to this part is sent as it is

IMMUTABLE = "public, max-age=31536000, immutable"
REVALIDATED = "no-cache"


@dataclass(frozen=True)
class StaticFile:
    content: bytes
    compressed: bytes | None
    content_type: str
    digest: str


class _DigestConverter(BaseConverter):
    regex = f"[0-9a-f]{{{DIGEST_CHARACTERS}}}"


def init_app(app: Flask) -> None:
    """Serve the files at the endpoint `static`; `url_for("static", filename=…)` returns the address with the digest."""
    files = read_files()
    current = digest_of_all(files)
    app.url_map.converters["digest"] = _DigestConverter

    def static(filename: str, digest: str | None = None) -> Response:
        if (file := files.get(filename)) is None:
            abort(404)
        # During a rolling deployment, a page of another version may ask this instance. It gets the file that exists here.
        return _respond(file, is_immutable=digest == current)

    def add_digest(endpoint: str, values: dict[str, Any]) -> None:
        if endpoint == "static":
            values["digest"] = current

    app.url_default_functions.setdefault(None, []).append(add_digest)
    app.jinja_env.globals["logo"] = _inline(files["logo.svg"])
    app.add_url_rule("/static/<digest:digest>/<path:filename>", "static", static)
    app.add_url_rule("/static/<path:filename>", "static", static)


@functools.cache
def read_files() -> dict[str, StaticFile]:
    """Return all files by their path below the folder."""
    paths = sorted(path for path in FOLDER.rglob("*") if path.is_file())
    return {path.relative_to(FOLDER).as_posix(): _read(path) for path in paths}


def digest_of_all(files: dict[str, StaticFile]) -> str:
    return _digest("".join(f"{name} {file.digest}\n" for name, file in files.items()).encode())


def _read(path: Path) -> StaticFile:
    content = path.read_bytes()
    compressed = gzip.compress(content, mtime=0)
    content_type = mimetypes.guess_type(path.name)[0] or "text/plain"
    if content_type.startswith("text/"):
        content_type += "; charset=utf-8"
    return StaticFile(
        content, compressed if len(compressed) < MIN_SAVING * len(content) else None, content_type, _digest(content)
    )


def _inline(image: StaticFile) -> Markup:
    """Return the element for a page, which saves a request."""
    return Markup(image.content.decode().replace("<svg ", '<svg aria-hidden="true" ', 1))  # noqa: S704 - our own file


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:DIGEST_CHARACTERS]


def _respond(file: StaticFile, *, is_immutable: bool) -> Response:
    compressed = file.compressed if request.accept_encodings["gzip"] > 0 else None
    body = compressed or file.content
    response = Response(body, content_type=file.content_type)
    response.set_etag(f"{file.digest}-gzip" if compressed else file.digest)
    response.headers["Cache-Control"] = IMMUTABLE if is_immutable else REVALIDATED
    if file.compressed is not None:
        response.vary.add("Accept-Encoding")
    if compressed:
        response.content_encoding = "gzip"
    response.make_conditional(request.environ, accept_ranges=True, complete_length=len(body))
    return response
