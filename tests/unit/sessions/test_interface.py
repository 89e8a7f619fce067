"""Sessions in requests: a small application with one view that the test supplies, on each store."""

from __future__ import annotations

import math
import secrets
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from flask import Flask, jsonify, session
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from app.core import config, errors
from app.core.errors import Unavailable
from app.core.keyring import Keyring, key_id
from app.sessions import cookie, records
from app.sessions.cipher import RecordCipher, encryption_key_id
from app.sessions.interface import SessionInterface
from app.sessions.records import Record
from app.sessions.redis_store import RedisSessionStore
from app.sessions.session import Session
from app.sessions.store import SIGNED, FieldChange, Fields, Owner, record_key
from harness.scale import count
from tests.unit.conftest import Clock, count_of
from tests.unit.sessions.conftest import Backend, RecordingStore

TTL, MAX_AGE = 2400, 240_000
REFRESH_AFTER = TTL // 24

NEW, OLD, FOREIGN = b"n" * 32, b"o" * 32, b"f" * 32
NEW_ID, OLD_ID, FOREIGN_ID = key_id(NEW), key_id(OLD), key_id(FOREIGN)
SIGNING = (b"s" * 32,)

View = Callable[[], object]


@dataclass
class Site:
    """One instance of the application."""

    store: RecordingStore
    encryption: Keyring
    signing: Keyring
    client: FlaskClient = field(init=False)
    interface: SessionInterface = field(init=False)
    view: View = field(init=False)
    refresh_keys: Callable[[], None] = lambda: None  # called to ask the fleet for its keys

    def __post_init__(self) -> None:
        app = Flask(__name__)
        settings = {
            "DATABASE_URL": "postgresql://nobody@127.0.0.1/unused",
            "SESSION_ENCRYPTION_KEY": secrets.token_hex(32),
            "SESSION_SECRET": secrets.token_hex(32),
            "SESSION_TTL": str(TTL),
            "SESSION_MAX_AGE": str(MAX_AGE),
        }
        self.interface = SessionInterface(
            app, config.load(settings), self.store, self.encryption, self.signing, lambda: self.refresh_keys()
        )
        app.session_interface = self.interface
        errors.init_app(app, lambda _: {})
        app.add_url_rule("/api/view", view_func=lambda: jsonify(self.view()))
        self.client = app.test_client()

    def visit(self, view: View) -> TestResponse:
        """Send a request. `calls` then lists its calls of the store."""
        self.view = view
        self.store.calls.clear()
        return self.client.get("/api/view")

    def see(self, view: View) -> Any:
        """Send a request and return the JSON value that the view returned."""
        response = self.visit(view)
        assert response.status_code == 200
        return response.json

    @property
    def calls(self) -> list[str]:
        return self.store.calls

    @property
    def cookie(self) -> str:
        found = self.client.get_cookie("session")
        assert found is not None
        return found.value

    @property
    def key(self) -> str:
        """The store key of the client's session."""
        read = cookie.read_session_id(self.signing, self.cookie)
        assert read is not None
        return record_key(read[0])

    @property
    def record(self) -> Fields:
        found = self.store.inner.load(self.key)
        assert found is not None
        return found


MakeSite = Callable[..., Site]

WITH_CLUSTER = pytest.mark.parametrize("backend", ["redis", "cluster", "sqlite"], indirect=True)


@pytest.fixture(params=["redis", "sqlite"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
def make_site(backend: Backend) -> MakeSite:
    """Create instances that share the store; each has its own keys."""

    def make(*, encryption: tuple[bytes, ...] = (OLD,), signing: tuple[bytes, ...] = SIGNING) -> Site:
        return Site(RecordingStore(backend.store), Keyring("encryption", encryption), Keyring("signing", signing))

    return make


@pytest.fixture
def site(make_site: MakeSite) -> Site:
    return make_site()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("app.sessions.records.time", clock)
    return clock


def remember(name: str = "name", value: object = "ada") -> View:
    def view() -> None:
        session[name] = value

    return view


def all_values() -> object:
    return dict(session)


def current() -> Session:
    found = session._get_current_object()  # type: ignore[attr-defined]
    assert isinstance(found, Session)
    return found


def stored() -> Record:
    found = current().record
    assert found is not None
    return found


def move(source: Site, target: Site) -> None:
    """Send the browser's next request to another instance."""
    target.client.set_cookie("session", source.cookie)


# Store calls of a request.


def test_request_without_session_access_calls_no_store(site: Site) -> None:
    site.visit(remember())
    response = site.visit(lambda: "static")
    assert site.calls == []
    assert response.headers.getlist("Set-Cookie") == []
    assert "Vary" not in response.headers


def test_reading_view_loads_once_and_does_not_write(site: Site, clock: Clock) -> None:
    site.visit(remember())
    for _ in range(3):
        assert site.see(lambda: [session["name"], session.get("other"), "name" in session, len(session)]) == [
            "ada",
            None,
            True,
            1,
        ]
        assert site.calls == ["load"]


def test_request_without_cookie_calls_no_store(site: Site) -> None:
    assert site.see(all_values) == {}
    assert site.calls == []


def test_writing_an_equal_value_does_not_save(site: Site, clock: Clock) -> None:
    site.visit(remember())
    site.visit(remember())
    assert site.calls == ["load"]


def test_empty_session_is_not_created(site: Site) -> None:
    def set_and_remove() -> None:
        session["name"] = "ada"
        del session["name"]

    assert site.visit(set_and_remove).headers.getlist("Set-Cookie") == []
    assert site.calls == []


def test_change_is_saved_with_one_call(site: Site, clock: Clock) -> None:
    site.visit(remember())
    assert site.calls == ["create"]
    site.visit(remember("name", "bob"))
    assert site.calls == ["load", "merge"]


# Stored values.


@pytest.mark.parametrize("value", [None, True, 0, -1, 2**63, 1.5, "", "世界", [1, [2]], {"a": {"b": None}}], ids=ascii)
def test_value_round_trip(site: Site, value: object) -> None:
    site.visit(remember("value", value))
    assert site.see(lambda: session["value"]) == value


def test_change_inside_a_nested_value_is_saved(site: Site) -> None:
    site.visit(remember("cart", {"items": [{"count": 1}]}))
    site.visit(lambda: session["cart"]["items"][0].update(count=2))
    assert site.calls == ["load", "merge"]
    assert site.see(lambda: session["cart"]) == {"items": [{"count": 2}]}


def test_removed_values_are_deleted(site: Site) -> None:
    site.visit(remember("one", 1))
    site.visit(remember("two", 2))
    site.visit(lambda: session.pop("one"))
    assert site.see(all_values) == {"two": 2}
    site.visit(lambda: session.clear())
    assert site.see(all_values) == {}


def test_save_writes_only_changed_fields(site: Site, clock: Clock) -> None:
    site.visit(remember("one", 1))
    site.visit(remember("two", 2))
    before = site.record
    site.visit(remember("two", 3))
    after = site.record
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"two"}


def test_names_that_begin_with_a_dot_are_rejected(site: Site) -> None:
    def take() -> str:
        with pytest.raises(KeyError):
            session[".created"] = 0
        return "refused"

    assert site.see(take) == "refused"


def test_only_the_signing_key_id_is_unencrypted(site: Site) -> None:
    site.visit(remember("name", "a-value-to-find"))
    session_id = site.cookie.partition(".")[0]
    assert len(session_id) == 43
    assert session_id not in site.key
    for name, value in site.record.items():
        assert b"a-value-to-find" not in value
        assert name == SIGNED or encryption_key_id(value) == OLD_ID
    assert site.record[SIGNED].decode() == key_id(*SIGNING)


def test_slow_request_does_not_restore_an_ended_session(site: Site) -> None:
    site.visit(remember())

    def slow() -> None:
        session["name"] = "bob"
        site.store.inner.destroy(current().key or "")  # another instance ends the session

    key = site.key
    assert site.visit(slow).headers.getlist("Set-Cookie") == []
    assert site.calls == ["load", "merge"]
    assert site.store.inner.load(key) is None


# Lifetimes.


def test_session_is_refreshed_at_most_once_in_a_24th_of_its_lifetime(site: Site, clock: Clock) -> None:
    site.visit(remember())
    writes, periods = 0, count(3, 10)
    for _ in range(periods * REFRESH_AFTER):  # a request each second
        clock.now += 1
        site.visit(all_values)
        writes += site.calls.count("merge")
        assert site.calls[0] == "load"
    assert writes == periods


def test_refresh_changes_only_the_last_use(site: Site, clock: Clock) -> None:
    site.visit(remember())
    before = site.record
    clock.now += REFRESH_AFTER
    assert site.visit(all_values).headers.getlist("Set-Cookie") == []
    after = site.record
    assert {name for name in before | after if before.get(name) != after.get(name)} == {".seen"}
    expected = ["ada", clock.now, clock.now - REFRESH_AFTER]
    assert site.see(lambda: [session["name"], stored().seen_at, stored().created_at]) == expected


def test_busy_session_ends_after_its_maximum_lifetime(site: Site, clock: Clock) -> None:
    site.visit(remember())
    key, step = site.key, MAX_AGE // 100
    for _ in range(99):
        clock.now += step
        assert site.see(all_values) == {"name": "ada"}
    clock.now += step - 1
    assert site.see(all_values) == {"name": "ada"}
    clock.now += 1
    assert site.see(all_values) == {}
    assert site.store.inner.load(key) is None


def test_expiry_is_limited_by_idle_and_maximum_lifetime(site: Site, clock: Clock) -> None:
    site.visit(remember())
    assert site.see(lambda: [session["name"], site.interface.records.expires_at(stored())]) == ["ada", clock.now + TTL]
    created = clock.now
    clock.now += MAX_AGE - 1
    site.visit(all_values)
    assert site.see(lambda: [session["name"], site.interface.records.expires_at(stored())]) == ["ada", created + MAX_AGE]


# Cookies.


def test_unsigned_id_is_neither_looked_up_nor_adopted(site: Site, make_site: MakeSite) -> None:
    session_id, foreign = cookie.new_session_id(), Keyring("signing", (FOREIGN,))
    for text in (session_id, f"{session_id}.", f"{session_id}.{'A' * 43}", cookie.sign(foreign, session_id)):
        site.client.set_cookie("session", text)
        assert site.see(all_values) == {}
        assert site.calls == []
        site.client.set_cookie("session", text)
        site.visit(remember())
        assert site.calls == ["create"]
        assert site.key != record_key(session_id)


def test_id_without_a_record_is_not_adopted(site: Site) -> None:
    session_id = cookie.new_session_id()
    site.client.set_cookie("session", cookie.sign(site.signing, session_id))
    assert site.see(all_values) == {}
    assert site.calls == ["load"]
    site.visit(remember())
    assert site.calls == ["load", "create"]
    assert site.key != record_key(session_id)
    assert site.store.inner.load(record_key(session_id)) is None


def test_device_cookie_is_not_a_session_cookie(site: Site) -> None:
    site.visit(remember())
    session_id = site.cookie.partition(".")[0]
    site.client.set_cookie("session", cookie.sign(site.signing, session_id, "device"))
    assert site.see(all_values) == {}
    assert site.calls == []


def test_cookie_of_an_older_secret_is_signed_again(make_site: MakeSite) -> None:
    old, new = make_site(signing=(OLD,)), make_site(signing=(NEW, OLD))
    old.visit(remember())
    move(old, new)
    assert new.see(all_values) == {"name": "ada"}
    assert cookie.read_session_id(Keyring("signing", (NEW,)), new.cookie) == (old.cookie.partition(".")[0], NEW_ID)
    assert new.record[SIGNED].decode() == OLD_ID  # the browser may not have received the new cookie
    assert new.visit(all_values).headers.getlist("Set-Cookie") == []
    assert new.record[SIGNED].decode() == NEW_ID


def test_old_secret_signs_until_the_fleet_has_switched(make_site: MakeSite) -> None:
    site = make_site(signing=(NEW, OLD))
    site.signing.apply_fleet_state(OLD_ID, frozenset({NEW_ID, OLD_ID}))
    site.visit(remember())
    assert cookie.read_session_id(Keyring("signing", (OLD,)), site.cookie)


def cookies_of(*values: str) -> dict[str, str]:
    return {"Cookie": "; ".join(f"session={value}" for value in values)}


def test_cookie_that_has_a_session_counts_among_several(site: Site) -> None:
    site.visit(remember())
    valid, unknown = site.cookie, cookie.sign(site.signing, cookie.new_session_id())
    client = site.client.application.test_client(use_cookies=False)
    site.view = all_values
    for values in ([unknown, valid], [valid, unknown], ["invalid", unknown, valid], [valid, valid]):
        response = client.get("/api/view", headers=cookies_of(*values))
        assert response.json == {"name": "ada"}
        assert response.headers.getlist("Set-Cookie") == []
    site.calls.clear()
    assert client.get("/api/view", headers=cookies_of(valid, valid)).json == {"name": "ada"}
    assert site.calls == ["load"]
    assert client.get("/api/view", headers=cookies_of(unknown, "invalid")).json == {}
    assert client.get("/api/view", headers=cookies_of(*[unknown[::-1] + str(n) for n in range(9)], valid)).json == {}


def test_sign_out_ends_the_session_that_counts(site: Site) -> None:
    site.visit(remember())
    key, unknown = site.key, cookie.sign(site.signing, cookie.new_session_id())
    site.view = lambda: site.interface.end(current())
    client = site.client.application.test_client(use_cookies=False)
    client.get("/api/view", headers=cookies_of(unknown, site.cookie))
    assert site.store.inner.load(key) is None


# Signing in and out.


def start(site: Site, owner: Owner, **values: object) -> View:
    return lambda: site.interface.start(current(), owner, {"ip": "192.0.2.1"}, values)


@WITH_CLUSTER
def test_used_session_can_be_listed_and_ended_after_its_list_expired(site: Site, backend: Backend, clock: Clock) -> None:
    owner = backend.new_owner()
    assert site.see(start(site, owner, user_id=owner.user_id)) is True
    if isinstance(backend.store, RedisSessionStore):
        backend.store._client.delete(*backend.store._indexes(owner.user_id)[:1])
    clock.now += REFRESH_AFTER + 1
    assert site.see(all_values) == {"user_id": owner.user_id}
    assert list(backend.store.records_of_user(owner.user_id)) == [site.key]
    assert backend.store.destroy_all(owner.user_id, keep=None) == 1
    assert site.see(all_values) == {}


@WITH_CLUSTER
def test_started_session_has_a_new_id_and_the_old_one_is_destroyed(site: Site, backend: Backend) -> None:
    owner = backend.new_owner()
    site.visit(remember("before", 1))
    before, old_cookie = site.key, site.cookie
    assert site.see(start(site, owner, user_id=owner.user_id)) is True
    assert site.key != before
    assert backend.store.load(before) is None
    assert list(backend.store.records_of_user(owner.user_id)) == [site.key]
    assert site.see(all_values) == {"user_id": owner.user_id}
    site.client.set_cookie("session", old_cookie)
    assert site.see(all_values) == {}


@WITH_CLUSTER
def test_session_is_not_started_with_an_older_password(site: Site, backend: Backend) -> None:
    owner = backend.new_owner()
    backend.change_password(owner)
    response = site.visit(start(site, owner, user_id=owner.user_id))
    assert response.json is False
    assert response.headers.getlist("Set-Cookie") == []
    assert backend.store.records_of_user(owner.user_id) == {}
    assert list(backend.store.key_ids_in_use()) == []


def test_ended_session_is_destroyed_and_its_cookie_deleted(site: Site) -> None:
    site.visit(remember())
    key = site.key
    response = site.visit(lambda: site.interface.end(current()))
    assert site.calls == ["destroy"]
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert site.store.inner.load(key) is None
    assert site.client.get_cookie("session") is None


def test_discarded_session_is_destroyed_and_its_cookie_kept(site: Site) -> None:
    site.visit(remember())
    key = site.key
    assert site.visit(lambda: site.interface.discard(current())).headers.getlist("Set-Cookie") == []
    assert site.store.inner.load(key) is None


def test_writes_after_the_end_are_not_saved(site: Site) -> None:
    site.visit(remember())

    def end_and_write() -> None:
        site.interface.end(current())
        session["name"] = "bob"

    site.visit(end_and_write)
    assert site.calls == ["destroy"]
    assert list(site.store.inner.key_ids_in_use()) == []


@WITH_CLUSTER
def test_describe_returns_times_and_client(site: Site, backend: Backend, clock: Clock) -> None:
    owner = backend.new_owner()
    site.visit(start(site, owner))
    expected = {"created_at": clock.now, "last_seen_at": clock.now, "ip": "192.0.2.1"}
    assert site.interface.describe(site.key, site.record) == expected
    assert site.interface.describe(record_key("another"), site.record) is None


# Corrupt records.


def damage_with(value: bytes) -> Callable[[Site], Fields]:
    return lambda site: {"name": value}


def copied_field(site: Site) -> Fields:
    return {"name": site.record[".seen"]}


def copied_record(site: Site) -> Fields:
    return {"name": RecordCipher(site.encryption, record_key("another")).encrypt("name", b"\xa3ada")}


def flipped_bit(site: Site) -> Fields:
    sealed = bytearray(site.record["name"])
    sealed[-1] ^= 1
    return {"name": bytes(sealed)}


def unknown_key(site: Site) -> Fields:
    return {"name": RecordCipher(Keyring("encryption", (FOREIGN,)), site.key).encrypt("name", b"\xa3ada")}


DAMAGES: dict[str, tuple[Callable[[Site], Fields], str]] = {
    "garbage": (damage_with(b"garbage"), "format"),
    "nothing": (damage_with(b""), "format"),
    "pickle": (damage_with(b"\x80\x04\x95" + b"." * 40), "format"),
    "plain text": (damage_with(msgspec.msgpack.encode({"user_id": 1, "is_admin": True, "padding": "x" * 40})), "format"),
    "copied field": (copied_field, "authentication"),
    "copied record": (copied_record, "authentication"),
    "flipped bit": (flipped_bit, "authentication"),
    "unknown key": (unknown_key, "unknown key"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_corrupt_record_starts_a_new_session_and_is_counted(site: Site, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    damage, reason = DAMAGES[kind]
    site.visit(remember())
    key = site.key
    for name, value in damage(site).items():
        site.store.inner.merge(key, {name: FieldChange(value)}, None)
    before = count_of("reporadar_session_integrity_failures_total", reason=reason)
    assert site.see(all_values) == {}
    assert site.calls == ["load", "load_again", "destroy"]
    assert count_of("reporadar_session_integrity_failures_total", reason=reason) == before + 1
    assert site.store.inner.load(key) is None
    assert reason in caplog.text
    site.visit(remember())
    assert site.key != key


@pytest.mark.parametrize("kind", DAMAGES)
def test_record_that_is_valid_in_the_second_read_is_kept(
    site: Site, kind: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    damage, _ = DAMAGES[kind]
    site.visit(remember())
    wrong = site.record | damage(site)
    monkeypatch.setattr(site.store.inner, "load", lambda _: wrong)
    assert site.see(all_values) == {"name": "ada"}
    assert site.calls == ["load", "load_again"]
    assert "rejected" not in caplog.text


def test_record_is_kept_if_two_reads_contradict_each_other(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.visit(remember())
    key, right = site.key, site.record
    monkeypatch.setattr(site.store.inner, "load", lambda _: {"name": b"one"})
    monkeypatch.setattr(site.store.inner, "load_again", lambda _: {"name": b"another"})
    assert site.visit(all_values).status_code == 503
    assert site.calls == ["load", "load_again"]
    monkeypatch.undo()
    assert site.store.inner.load(key) == right


def test_listed_record_that_is_valid_when_read_alone_is_kept(site: Site) -> None:
    site.visit(remember())
    wrong = site.record | {"name": b"wrong"}
    assert site.interface.describe(site.key, wrong)
    assert site.see(all_values) == {"name": "ada"}


@pytest.mark.parametrize("name", [".created", ".seen"])
def test_record_without_times_starts_a_new_session(site: Site, name: str) -> None:
    site.visit(remember())
    site.store.inner.merge(site.key, {name: FieldChange(None)}, None)
    before = count_of("reporadar_session_integrity_failures_total", reason="incomplete")
    assert site.see(all_values) == {}
    assert count_of("reporadar_session_integrity_failures_total", reason="incomplete") == before + 1


def test_content_of_a_corrupt_record_is_not_logged(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.visit(remember())
    site.store.inner.merge(site.key, {"name": FieldChange(b"a-value-to-find")}, None)
    site.visit(all_values)
    assert "rejected" in caplog.text
    assert "a-value-to-find" not in caplog.text
    assert site.cookie.partition(".")[0] not in caplog.text


# Keys.


def test_record_with_a_key_of_other_instances_is_kept_and_503(make_site: MakeSite) -> None:
    ahead, behind = make_site(encryption=(NEW, OLD)), make_site(encryption=(OLD,))
    known = frozenset({NEW_ID, OLD_ID})
    ahead.encryption.apply_fleet_state(NEW_ID, known)
    behind.encryption.apply_fleet_state(NEW_ID, known)
    ahead.visit(remember())
    before = ahead.record
    move(ahead, behind)
    response = behind.visit(all_values)
    assert response.status_code == 503
    assert response.content_type == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    assert behind.calls == ["load"]
    assert ahead.record == before
    assert ahead.see(all_values) == {"name": "ada"}


def test_record_with_an_unknown_key_is_rejected_only_after_asking_the_fleet(make_site: MakeSite) -> None:
    ahead, behind = make_site(encryption=(NEW, OLD)), make_site(encryption=(OLD,))
    ahead.visit(remember())
    before = ahead.record
    move(ahead, behind)
    behind.refresh_keys = lambda: behind.encryption.apply_fleet_state(NEW_ID, frozenset({NEW_ID, OLD_ID}))
    assert behind.visit(all_values).status_code == 503
    assert behind.calls == ["load"]
    assert ahead.record == before


def test_record_with_an_unknown_key_is_kept_while_the_registry_is_unavailable(make_site: MakeSite) -> None:
    def no_answer() -> None:
        raise Unavailable("The registry does not answer.")

    ahead, behind = make_site(encryption=(NEW, OLD)), make_site(encryption=(OLD,))
    ahead.visit(remember())
    before = ahead.record
    move(ahead, behind)
    behind.refresh_keys = no_answer
    assert behind.visit(all_values).status_code == 503
    assert behind.calls == ["load"]
    assert ahead.record == before


def test_fleet_is_not_asked_about_known_keys(make_site: MakeSite) -> None:
    def never() -> None:
        raise AssertionError

    site = make_site(encryption=(NEW, OLD))
    site.refresh_keys = never
    site.visit(remember())
    assert site.see(all_values) == {"name": "ada"}
    site.store.inner.merge(site.key, {"name": FieldChange(b"garbage")}, None)
    assert site.see(all_values) == {}


def test_record_is_encrypted_again_with_the_active_key_when_it_is_read(make_site: MakeSite, clock: Clock) -> None:
    old, new = make_site(encryption=(OLD,)), make_site(encryption=(NEW, OLD))
    old.visit(remember("one", 1))
    old.visit(remember("two", [2]))
    move(old, new)
    assert new.see(all_values) == {"one": 1, "two": [2]}
    assert new.calls == ["load", "merge"]
    assert {name: encryption_key_id(value) for name, value in new.record.items() if name != SIGNED} == dict.fromkeys(
        ("one", "two", ".created", ".seen"), NEW_ID
    )
    assert new.see(all_values) == {"one": 1, "two": [2]}
    assert new.calls == ["load"]


def test_encrypting_again_does_not_undo_a_concurrent_write(make_site: MakeSite) -> None:
    old, new = make_site(encryption=(OLD,)), make_site(encryption=(NEW, OLD))
    old.visit(remember("name", "ada"))
    move(old, new)

    def slow() -> object:
        found = dict(session)
        old.client.set_cookie("session", new.cookie)
        old.visit(remember("name", "bob"))
        return found

    assert new.see(slow) == {"name": "ada"}
    assert new.see(all_values) == {"name": "bob"}


# Unavailable store.


@pytest.fixture
def visited(site: Site) -> Site:
    site.visit(remember())
    return site


def test_reading_from_an_unavailable_store_is_503(visited: Site) -> None:
    visited.store.failing = {"load", "create", "merge", "destroy"}
    response = visited.visit(all_values)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert visited.calls == ["load"]
    assert response.headers.getlist("Set-Cookie") == []


@pytest.mark.parametrize(("known", "calls"), [(False, ["create"]), (True, ["load", "merge"])], ids=["new", "known"])
def test_saving_to_an_unavailable_store_is_503(site: Site, known: bool, calls: list[str]) -> None:
    if known:
        site.visit(remember())
    site.store.failing = {"create", "merge", "destroy"}
    response = site.visit(remember("name", "bob"))
    assert response.status_code == 503
    assert response.content_type == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    assert site.calls == calls
    assert response.headers.getlist("Set-Cookie") == []


def test_session_that_cannot_be_extended_is_still_read(visited: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "REFRESHES_PER_LIFETIME", math.inf)  # each request extends the session
    visited.store.failing = {"create", "merge", "destroy"}
    assert visited.see(all_values) == {"name": "ada"}
    assert visited.calls == ["load", "merge"]


def test_session_survives_an_outage_of_the_store(visited: Site) -> None:
    visited.store.failing = {"load"}
    assert visited.visit(all_values).status_code == 503
    visited.store.failing = set()
    assert visited.see(all_values) == {"name": "ada"}


def test_failed_sign_out_is_503(visited: Site) -> None:
    visited.store.failing = {"destroy"}
    response = visited.visit(lambda: visited.interface.end(current()))
    assert response.status_code == 503
    assert response.headers.getlist("Set-Cookie") == []
    visited.store.failing = set()
    assert visited.see(all_values) == {"name": "ada"}


def test_failed_start_is_not_repeated_by_the_error_response(site: Site, backend: Backend) -> None:
    owner = backend.new_owner()

    def start_during_outage() -> object:
        site.store.failing = {"create"}
        try:
            return site.interface.start(current(), owner, {}, {"user_id": owner.user_id})
        except Unavailable:
            site.store.failing = set()  # the outage was short
            raise

    response = site.visit(start_during_outage)
    assert response.status_code == 503
    assert site.calls == ["create"]
    assert response.headers.getlist("Set-Cookie") == []
    assert list(backend.store.key_ids_in_use()) == []
