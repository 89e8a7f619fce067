"""A response that is larger than all buffers, so that a client can disconnect in the middle of it."""

from collections.abc import Iterator

from flask import Response

from wsgi import app

PART, PARTS = b"a" * 65_536, 1_000


@app.get("/long")
def long() -> Response:
    def parts() -> Iterator[bytes]:
        for _ in range(PARTS):
            yield PART

    return Response(parts(), mimetype="text/plain")


__all__ = ["app"]
