"""Which `Range` headers are processed. Others are ignored, as RFC 9110 (section 14.2) allows; Werkzeug answers them with 416."""

import re

from flask import Flask, request

_SINGLE = re.compile(r"bytes=[ \t]*(?:(\d{1,18})-(\d{0,18})|-\d{1,18})[ \t]*", re.IGNORECASE | re.ASCII)


def init_app(app: Flask) -> None:
    @app.before_request
    def ignore_unsupported_range() -> None:
        if not _is_supported(request.environ.get("HTTP_RANGE", "")):
            request.environ.pop("HTTP_RANGE", None)


def _is_supported(header: str) -> bool:
    """Return whether it is a single, valid range of bytes."""
    found = _SINGLE.fullmatch(header)
    return found is not None and not (found[2] and int(found[1]) > int(found[2]))
