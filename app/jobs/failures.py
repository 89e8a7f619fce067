"""How the work behind a job ends early."""

from __future__ import annotations


class Stopped(Exception):
    """As the caller wished."""


class JobFailed(Exception):
    """The text is for whoever asked. `permanent`: trying again would end in the same way."""

    def __init__(self, text: str, *, permanent: bool) -> None:
        super().__init__(text)
        self.permanent = permanent
