"""What a view sees as `flask.session`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from flask.sessions import SessionMixin

from app.sessions.store import Fields, record_key

Presented = tuple[str, str] | tuple[None, None]


class Session(SessionMixin):
    """A dictionary that is loaded when it is first looked at, and remembers what it held then."""

    permanent = True

    def __init__(self, load: Callable[[Session], None], read_cookie: Callable[[], Presented]) -> None:
        """`load` fills it from its record. `read_cookie`: the session's id and the key id of its signature, if there is one."""
        self._load = load
        self._read_cookie = read_cookie
        self.ended = False
        self.forget()

    @cached_property
    def _presented(self) -> Presented:
        return self._read_cookie()

    @cached_property
    def session_id(self) -> str | None:
        return self._presented[0]

    @cached_property
    def signed_with(self) -> str | None:
        return self._presented[1]

    def forget(self) -> None:
        """All that is known of its record."""
        self.opened = False
        self.exists = False  # there is a record of it
        self.sealed: Fields = {}
        self.loaded: dict[str, bytes] = {}
        self.content: dict[str, Any] = {}
        self.created_at = self.seen_at = 0

    @property
    def key(self) -> str | None:
        """Of its record."""
        return record_key(self.session_id) if self.session_id else None

    @property
    def _opened_content(self) -> dict[str, Any]:
        if not self.opened:
            self._load(self)
        return self.content

    def __getitem__(self, name: str) -> Any:
        return self._opened_content[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("."):
            raise KeyError("names that begin with a dot are taken")
        self._opened_content[name] = value

    def __delitem__(self, name: str) -> None:
        del self._opened_content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._opened_content)

    def __len__(self) -> int:
        return len(self._opened_content)
