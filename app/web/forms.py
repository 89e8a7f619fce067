"""What the forms of all pages share: how fields are read, and where a visitor goes next."""

from __future__ import annotations

import re

from flask import request

from app.auth.passwords import MAX_LENGTH
from app.core.errors import Invalid, Problem

# Only places of this site. Browsers take `//host` and `/\host` for other sites, and drop tabs and line breaks before they look.
LOCAL_PATH = re.compile(r"/([^/\\\x00-\x20][^\\\x00-\x20]*)?")


def text(field: str) -> str:
    return request.form.get(field, "")


def password(field: str) -> str:
    """Raises Invalid for one that can't be right, so that nobody makes the server hash very long texts."""
    entered = text(field)
    if len(entered) > MAX_LENGTH:
        raise Invalid.field(field, f"Passwords here have at most {MAX_LENGTH} characters.")
    return entered


def correctable(problem: Problem) -> Problem:
    """The problem, if whoever filled in the form can do something about it; everything else goes to the error page."""
    if problem.status >= 500:
        raise problem
    return problem


def local_path(path: str) -> str:
    return path if LOCAL_PATH.fullmatch(path) else "/"
