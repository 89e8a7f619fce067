"""The object behind `flask.session`."""

from collections.abc import Callable, Iterator
from functools import cached_property
from typing import Any

from flask.sessions import SessionMixin

from app.core.errors import Unavailable
from app.sessions.cookie import SignedValue
from app.sessions.records import Record, SessionRecords, find_changes
from app.sessions.store import Owner, record_key


class Session(SessionMixin):
    """A dictionary that reads its cookie and its record on first access, and saves only the fields that changed."""

    permanent = True

    def __init__(self, records: SessionRecords, read_cookies: Callable[[], list[SignedValue]]) -> None:
        """`read_cookies` returns the verified session IDs of the request's cookies."""
        self._records = records
        self._read_cookies = read_cookies
        self.is_ended = False  # the browser's cookie is to be deleted
        self._reset()

    def _reset(self) -> None:
        self.is_loaded = False
        self._record: Record | None = None
        self._content: dict[str, Any] = {}

    @cached_property
    def _cookie(self) -> SignedValue | None:
        """The browser's cookie; of several with the same name, the first that has a record."""
        found = self._read_cookies()
        if len(found) > 1:
            found = [one for one in found if self._records.load(record_key(one.value))] or found
        return found[0] if found else None

    @property
    def session_id(self) -> str | None:
        return self._cookie.value if self._cookie else None

    @property
    def signed_with(self) -> str | None:
        """The ID of the key that signed the browser's cookie; None if the browser does not have this session's cookie."""
        return self._cookie.key_id or None if self._cookie else None

    @property
    def key(self) -> str | None:
        """The store key of its record."""
        return record_key(self.session_id) if self.session_id else None

    @property
    def record(self) -> Record | None:
        """The stored record; None before the first access, or if there is none."""
        return self._record

    def start(self, owner: Owner, client: dict[str, str], values: dict[str, Any]) -> bool:
        """Replace this session by an authenticated one with a new ID. The old ID becomes invalid on every instance.

        Return False and leave the session empty if the owner's password has changed since it was checked.
        """
        replaces, self.is_ended = self.key, False
        self._reset()
        self._content = dict(values)
        try:
            self._record = self._records.create(self._new_id(owner), self._content, owner, client, replaces)
        except Unavailable:
            self._reset()
            raise
        if self._record is None:
            self._content = {}
        self.is_loaded = True
        return self._record is not None

    def end(self, *, delete_cookie: bool) -> None:
        """Forget the content. With `delete_cookie`, later writes are not saved; without, they create a new session."""
        self._reset()
        self.is_loaded, self.is_ended = True, delete_cookie

    def save(self) -> None:
        """Write what changed. Do nothing if the session was not accessed, or if another request has destroyed the record."""
        if not self.is_loaded:
            return
        try:
            changes = find_changes(self._record, self._content)
            if self._record and self.key:
                if not self._records.update(self.key, self._record, changes, self.signed_with):
                    self._reset()
            elif changes and not self.is_ended:
                self._record = self._records.create(self._new_id(None), self._content)
        except Unavailable:
            self.is_loaded = False  # Flask saves the session again after the error page, which would fail again
            raise

    def _new_id(self, owner: Owner | None) -> str:
        self._cookie = SignedValue(self._records.store.new_id(owner), "")
        return self._cookie.value

    def _load(self) -> None:
        """A cookie without a valid record counts as no cookie, so that its ID is never used for a new record."""
        self._record = self._records.load(self.key) if self.key else None
        if self._record is None:
            self._cookie = None
        else:
            self._content = self._record.content()
        self.is_loaded = True

    @property
    def _loaded_content(self) -> dict[str, Any]:
        if not self.is_loaded:
            self._load()
        return self._content

    def __getitem__(self, name: str) -> Any:
        return self._loaded_content[name]

    def __setitem__(self, name: str, value: Any) -> None:
        if name.startswith("."):
            raise KeyError(f"{name!r} can't be set: names that begin with a dot are reserved")
        self._loaded_content[name] = value

    def __delitem__(self, name: str) -> None:
        del self._loaded_content[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaded_content)

    def __len__(self) -> int:
        return len(self._loaded_content)
