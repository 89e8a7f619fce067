"""Compression of pages. `app.web.static_files` compresses files in advance; responses of the API are not compressed."""

import gzip
import io
import secrets

from flask import Flask, Response, request

MIN_BYTES = 1000  # below, the headers are most of a response
LEVEL = 6  # a report of 60 kB becomes 10 kB; level 4 would save a third of the time, and be 8 % larger
MAX_RANDOM_BYTES = 100


def init_app(app: Flask) -> None:
    @app.after_request
    def compress_page(response: Response) -> Response:
        if response.mimetype != "text/html" or response.is_streamed or response.status_code in (204, 206, 304):
            return response
        response.vary.add("Accept-Encoding")
        body = response.get_data()
        if len(body) >= MIN_BYTES and request.accept_encodings["gzip"] > 0:
            response.set_data(_compress(body))
            response.content_encoding = "gzip"
            etag, _ = response.get_etag()
            if etag:
                response.set_etag(etag, weak=True)  # the bytes are other ones each time
        return response


def _compress(body: bytes) -> bytes:
    """Compress with a name of random length in gzip's header.

    Somebody who sees the length of encrypted responses and can choose a part of the page must not learn from it which guess about
    the rest was right (BREACH, https://www.breachattack.com). Django does the same: https://ieeexplore.ieee.org/document/9754554.
    """
    buffer = io.BytesIO()
    name = "a" * secrets.randbelow(MAX_RANDOM_BYTES)
    with gzip.GzipFile(filename=name, mode="wb", compresslevel=LEVEL, fileobj=buffer, mtime=0) as file:
        file.write(body)
    return buffer.getvalue()
