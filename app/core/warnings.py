"""Warnings for operators."""

from typing import Self


class OperatorWarning(str):
    """A text for the log, and a short code that stays the same in later versions: the `reason` in `/health`."""

    reason: str

    def __new__(cls, reason: str, text: str) -> Self:
        warning = super().__new__(cls, text)
        warning.reason = reason
        return warning
