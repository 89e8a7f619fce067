"""Default for optional callbacks."""

from __future__ import annotations


def do_nothing(*_: object) -> None:
    """Accept any arguments and ignore them."""
