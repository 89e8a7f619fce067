"""Recognises vendored files and documentation by their paths."""

import re
from functools import cache

from app.analysis.linguist.data import load

MAX_BYTES = 4096  # of a path that are compared

# Linguist takes this file for vendored. Here it is a project's own build, as a Makefile is.
_NOT_VENDORED = r"(^|/)Jenkinsfile$"

_BEGIN_OF_COMPONENT = re.compile(r"\(\^\|\\?/\)")
_LEADING_WILDCARD = re.compile(r"\A(?:\(\[\^\\s\]\*\)|\(\.\*\?\))")  # makes no difference to a search


def is_vendored(path: bytes) -> bool:
    """Return whether the path is one of vendored files, such as `vendor/x.go`. Ignores `.gitattributes`."""
    return _matches("vendor", path)


def is_documentation(path: bytes) -> bool:
    """Return whether the path is one of documentation, such as `docs/x.html`. Ignores `.gitattributes`."""
    return _matches("documentation", path)


def _matches(name: str, path: bytes) -> bool:
    at_root, at_slash, elsewhere = _patterns(name)
    path = b"/" + path[:MAX_BYTES]
    return at_root.match(path) is not None or at_slash.search(path) is not None or elsewhere.search(path) is not None


@cache
def _patterns(name: str) -> tuple[re.Pattern[bytes], ...]:
    """Return a pattern for the root, one that begins with a slash, which is found quickly, and one for the rest."""
    at_root, at_slash, elsewhere = [], [], []
    for pattern in load(name):
        if pattern == _NOT_VENDORED:
            continue
        if pattern.startswith("^"):
            at_root.append(f"/{pattern[1:]}")
        elif _BEGIN_OF_COMPONENT.match(pattern):
            at_slash.append(_BEGIN_OF_COMPONENT.sub("/", pattern, count=1))
        else:
            elsewhere.append(_LEADING_WILDCARD.sub("", pattern))
    nothing = r"(?!)"
    return tuple(
        re.compile("|".join(patterns or [nothing]).encode(), re.MULTILINE) for patterns in (at_root, at_slash, elsewhere)
    )
