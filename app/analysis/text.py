"""How what strangers wrote becomes text."""

from __future__ import annotations


def readable(path: bytes) -> str:
    r"""Bytes that are not UTF-8 are shown as `\xff`."""
    return path.decode(errors="backslashreplace")
