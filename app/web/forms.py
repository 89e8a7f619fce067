"""Helpers for the forms of all pages."""

import re

from flask import request

from app.auth.passwords import MAX_LENGTH, is_too_long
from app.core.errors import Invalid, Problem
from app.notifications.service import TYPES

# Only paths of this site. Browsers treat `//host` and `/\host` as other sites, and ignore tabs and line breaks.
LOCAL_PATH = re.compile(r"/([^/\\\x00-\x20][^\\\x00-\x20]*)?")


def text(field: str) -> str:
    return request.form.get(field, "")


def password(field: str) -> str:
    """Return the password. Raise Invalid if it is too long, so that the server never hashes very long texts."""
    entered = text(field)
    if is_too_long(entered):
        raise Invalid.field(field, f"A password has at most {MAX_LENGTH} characters.")
    return entered


def notification_types() -> tuple[dict[str, bool], bool]:
    """Return which types of notifications are switched on, and whether the user returns to the default instead."""
    if "inherit" in request.form:
        return {}, True
    chosen = request.form.getlist("types")
    return {name: name in chosen for name in TYPES}, False


def correctable(problem: Problem) -> Problem:
    """Return the problem if the user can correct it. Raise it otherwise, which leads to the error page."""
    if problem.status >= 500:
        raise problem
    return problem


def local_path(path: str) -> str:
    """Return the path if it leads to this site, otherwise the home page."""
    return path if LOCAL_PATH.fullmatch(path) else "/"
