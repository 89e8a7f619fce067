"""Typed access to `app.extensions`, where `create_app` registers the services."""

from typing import TypeVar

from flask import current_app

T = TypeVar("T")


def extension(_kind: type[T], name: str) -> T:
    """Return `app.extensions[name]` of the current application. `_kind` is its type."""
    found: T = current_app.extensions[name]
    return found
