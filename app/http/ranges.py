"""Which headers of conditional and range requests are processed. Others are ignored, as RFC 9110 (13.1.3, 14.2) allows.

Werkzeug answers an unsupported range with 416, and fails for a date whose year is too large.
"""

import re

from flask import Flask, request
from werkzeug.http import parse_date

_SINGLE = re.compile(r"bytes=[ \t]*(?:(\d{1,18})-(\d{0,18})|-\d{1,18})[ \t]*", re.IGNORECASE | re.ASCII)


def init_app(app: Flask) -> None:
    @app.before_request
    def ignore_unsupported_headers() -> None:
        environ = request.environ
        if "HTTP_RANGE" in environ and not _is_supported(environ["HTTP_RANGE"]):
            del environ["HTTP_RANGE"]
        for name in ("HTTP_IF_MODIFIED_SINCE", "HTTP_IF_RANGE"):
            if name in environ and _has_impossible_year(environ[name]):
                del environ[name]


def _is_supported(header: str) -> bool:
    """Return whether it is a single, valid range of bytes."""
    found = _SINGLE.fullmatch(header)
    return found is not None and not (found[2] and int(found[1]) > int(found[2]))


def _has_impossible_year(header: str) -> bool:
    try:
        parse_date(header)
    except OverflowError:
        return True
    return False
