"""Sessions as a request meets them: a small application whose one view does what the test says, on each store."""

from __future__ import annotations

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
from app.sessions import cookie
from app.sessions.cipher import RecordCipher, encryption_key_id
from app.sessions.interface import SessionInterface
from app.sessions.records import Record
from app.sessions.session import Session
from app.sessions.store import SIGNED, Change, Fields, Owner, record_key
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
    refresh_keys: Callable[[], None] = lambda: None  # what an instance learns when it asks for the keys of the fleet

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
        errors.init_app(app)
        app.add_url_rule("/api/view", view_func=lambda: jsonify(self.view()))
        self.client = app.test_client()

    def visit(self, view: View) -> TestResponse:
        """A request; `calls` of the store then shows what it cost."""
        self.view = view
        self.store.calls.clear()
        return self.client.get("/api/view")

    def see(self, view: View) -> Any:
        """What the view returned."""
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
        """Of the record of the client's session."""
        read = cookie.read_session_id(self.signing, self.cookie)
        assert read is not None
        return record_key(read[0])

    @property
    def record(self) -> Fields:
        found = self.store.inner.load(self.key)
        assert found is not None
        return found


MakeSite = Callable[..., Site]


@pytest.fixture(params=["redis", "sqlite"])
def backend(request: pytest.FixtureRequest) -> Backend:
    found: Backend = request.getfixturevalue(f"{request.param}_backend")
    return found


@pytest.fixture
def make_site(backend: Backend) -> MakeSite:
    """Instances that share the store, each with keys of its own."""

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


def whole() -> object:
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
    """The browser's next request goes to another instance."""
    target.client.set_cookie("session", source.cookie)


# What a request costs.


def test_a_view_that_does_not_look_at_the_session_costs_nothing(site: Site) -> None:
    site.visit(remember())
    response = site.visit(lambda: "static")
    assert site.calls == []
    assert response.headers.getlist("Set-Cookie") == []
    assert "Vary" not in response.headers


def test_a_view_that_reads_costs_one_load_and_no_write(site: Site, clock: Clock) -> None:
    site.visit(remember())
    for _ in range(3):
        assert site.see(lambda: [session["name"], session.get("other"), "name" in session, len(session)]) == [
            "ada",
            None,
            True,
            1,
        ]
        assert site.calls == ["load"]


def test_a_visitor_without_a_cookie_costs_nothing(site: Site) -> None:
    assert site.see(whole) == {}
    assert site.calls == []


def test_writing_what_is_there_already_is_no_write(site: Site, clock: Clock) -> None:
    site.visit(remember())
    site.visit(remember())
    assert site.calls == ["load"]


def test_an_empty_session_is_not_created(site: Site) -> None:
    def set_and_remove() -> None:
        session["name"] = "ada"
        del session["name"]

    assert site.visit(set_and_remove).headers.getlist("Set-Cookie") == []
    assert site.calls == []


def test_a_change_is_one_write(site: Site, clock: Clock) -> None:
    site.visit(remember())
    assert site.calls == ["create"]
    site.visit(remember("name", "bob"))
    assert site.calls == ["load", "merge"]


# What is kept.


@pytest.mark.parametrize("value", [None, True, 0, -1, 2**63, 1.5, "", "世界", [1, [2]], {"a": {"b": None}}], ids=ascii)
def test_a_value_comes_back_as_it_was(site: Site, value: object) -> None:
    site.visit(remember("value", value))
    assert site.see(lambda: session["value"]) == value


def test_a_change_inside_of_a_nested_value_is_kept(site: Site) -> None:
    site.visit(remember("cart", {"items": [{"count": 1}]}))
    site.visit(lambda: session["cart"]["items"][0].update(count=2))
    assert site.calls == ["load", "merge"]
    assert site.see(lambda: session["cart"]) == {"items": [{"count": 2}]}


def test_what_was_removed_is_gone(site: Site) -> None:
    site.visit(remember("one", 1))
    site.visit(remember("two", 2))
    site.visit(lambda: session.pop("one"))
    assert site.see(whole) == {"two": 2}
    site.visit(lambda: session.clear())
    assert site.see(whole) == {}


def test_a_write_touches_only_what_it_changed(site: Site, clock: Clock) -> None:
    site.visit(remember("one", 1))
    site.visit(remember("two", 2))
    before = site.record
    site.visit(remember("two", 3))
    after = site.record
    assert {name for name in before | after if before.get(name) != after.get(name)} == {"two"}


def test_names_that_begin_with_a_dot_are_taken(site: Site) -> None:
    def take() -> str:
        with pytest.raises(KeyError):
            session[".created"] = 0
        return "refused"

    assert site.see(take) == "refused"


def test_nothing_but_the_key_of_the_signature_is_in_the_clear(site: Site) -> None:
    site.visit(remember("name", "a-value-to-find"))
    session_id = site.cookie.partition(".")[0]
    assert len(session_id) == 43
    assert session_id not in site.key
    for name, value in site.record.items():
        assert b"a-value-to-find" not in value
        assert name == SIGNED or encryption_key_id(value) == OLD_ID
    assert site.record[SIGNED].decode() == key_id(*SIGNING)


def test_an_ended_session_stays_dead_whatever_a_slower_request_does(site: Site) -> None:
    site.visit(remember())

    def slow() -> None:
        session["name"] = "bob"
        site.store.inner.destroy(current().key or "")  # another instance was faster

    key = site.key
    assert site.visit(slow).headers.getlist("Set-Cookie") == []
    assert site.calls == ["load", "merge"]
    assert site.store.inner.load(key) is None


# Lifetimes.


def test_a_session_is_refreshed_at_most_once_in_a_24th_of_its_life(site: Site, clock: Clock) -> None:
    site.visit(remember())
    writes = 0
    for _ in range(10 * REFRESH_AFTER):  # a request each second
        clock.now += 1
        site.visit(whole)
        writes += site.calls.count("merge")
        assert site.calls[0] == "load"
    assert writes == 10


def test_a_refresh_changes_when_the_session_was_seen_and_nothing_else(site: Site, clock: Clock) -> None:
    site.visit(remember())
    before = site.record
    clock.now += REFRESH_AFTER
    assert site.visit(whole).headers.getlist("Set-Cookie") == []
    after = site.record
    assert {name for name in before | after if before.get(name) != after.get(name)} == {".seen"}
    expected = ["ada", clock.now, clock.now - REFRESH_AFTER]
    assert site.see(lambda: [session["name"], stored().seen_at, stored().created_at]) == expected


def test_a_session_ends_with_its_absolute_life_however_busy_it_is(site: Site, clock: Clock) -> None:
    site.visit(remember())
    key, step = site.key, MAX_AGE // 100
    for _ in range(99):
        clock.now += step
        assert site.see(whole) == {"name": "ada"}
    clock.now += step - 1
    assert site.see(whole) == {"name": "ada"}
    clock.now += 1
    assert site.see(whole) == {}
    assert site.store.inner.load(key) is None


def test_the_end_of_a_session_is_told(site: Site, clock: Clock) -> None:
    site.visit(remember())
    assert site.see(lambda: [session["name"], site.interface.records.expires_at(stored())]) == ["ada", clock.now + TTL]
    created = clock.now
    clock.now += MAX_AGE - 1
    site.visit(whole)
    assert site.see(lambda: [session["name"], site.interface.records.expires_at(stored())]) == ["ada", created + MAX_AGE]


# Cookies.


def test_an_id_that_nobody_signed_is_not_looked_up_and_not_adopted(site: Site, make_site: MakeSite) -> None:
    session_id, foreign = cookie.new_session_id(), Keyring("signing", (FOREIGN,))
    for text in (session_id, f"{session_id}.", f"{session_id}.{'A' * 43}", cookie.sign(foreign, session_id)):
        site.client.set_cookie("session", text)
        assert site.see(whole) == {}
        assert site.calls == []
        site.client.set_cookie("session", text)
        site.visit(remember())
        assert site.calls == ["create"]
        assert site.key != record_key(session_id)


def test_an_id_without_a_record_is_not_adopted(site: Site) -> None:
    session_id = cookie.new_session_id()
    site.client.set_cookie("session", cookie.sign(site.signing, session_id))
    assert site.see(whole) == {}
    assert site.calls == ["load"]
    site.visit(remember())
    assert site.calls == ["load", "create"]
    assert site.key != record_key(session_id)
    assert site.store.inner.load(record_key(session_id)) is None


def test_a_device_cookie_is_no_session_cookie(site: Site) -> None:
    site.visit(remember())
    session_id = site.cookie.partition(".")[0]
    site.client.set_cookie("session", cookie.sign(site.signing, session_id, "device"))
    assert site.see(whole) == {}
    assert site.calls == []


def test_a_cookie_of_an_older_secret_is_signed_anew(make_site: MakeSite) -> None:
    old, new = make_site(signing=(OLD,)), make_site(signing=(NEW, OLD))
    old.visit(remember())
    move(old, new)
    assert new.see(whole) == {"name": "ada"}
    assert cookie.read_session_id(Keyring("signing", (NEW,)), new.cookie) == (old.cookie.partition(".")[0], NEW_ID)
    assert new.record[SIGNED].decode() == OLD_ID  # for all that is known, the browser has not got it
    assert new.visit(whole).headers.getlist("Set-Cookie") == []
    assert new.record[SIGNED].decode() == NEW_ID


def test_the_old_secret_signs_until_the_fleet_has_switched(make_site: MakeSite) -> None:
    site = make_site(signing=(NEW, OLD))
    site.signing.apply_fleet_state(OLD_ID, frozenset({NEW_ID, OLD_ID}))
    site.visit(remember())
    assert cookie.read_session_id(Keyring("signing", (OLD,)), site.cookie)


# Signing in and out.


def start(site: Site, owner: Owner, **values: object) -> View:
    return lambda: site.interface.start(current(), owner, {"ip": "192.0.2.1"}, values)


def test_a_new_session_has_a_new_id_and_the_old_one_is_dead(site: Site, backend: Backend) -> None:
    owner = backend.new_owner()
    site.visit(remember("before", 1))
    before, old_cookie = site.key, site.cookie
    assert site.see(start(site, owner, user_id=owner.user_id)) is True
    assert site.key != before
    assert backend.store.load(before) is None
    assert list(backend.store.records_of_user(owner.user_id)) == [site.key]
    assert site.see(whole) == {"user_id": owner.user_id}
    site.client.set_cookie("session", old_cookie)
    assert site.see(whole) == {}


def test_a_session_is_not_begun_with_an_older_password(site: Site, backend: Backend) -> None:
    owner = backend.new_owner()
    backend.change_password(owner)
    response = site.visit(start(site, owner, user_id=owner.user_id))
    assert response.json is False
    assert response.headers.getlist("Set-Cookie") == []
    assert backend.store.records_of_user(owner.user_id) == {}
    assert list(backend.store.key_ids_in_use()) == []


def test_an_ended_session_is_dead_and_its_cookie_is_deleted(site: Site) -> None:
    site.visit(remember())
    key = site.key
    response = site.visit(lambda: site.interface.end(current()))
    assert site.calls == ["destroy"]
    assert "Max-Age=0" in response.headers["Set-Cookie"]
    assert site.store.inner.load(key) is None
    assert site.client.get_cookie("session") is None


def test_a_discarded_session_is_dead_without_a_word_to_the_browser(site: Site) -> None:
    site.visit(remember())
    key = site.key
    assert site.visit(lambda: site.interface.discard(current())).headers.getlist("Set-Cookie") == []
    assert site.store.inner.load(key) is None


def test_what_is_written_after_the_end_is_not_kept(site: Site) -> None:
    site.visit(remember())

    def end_and_write() -> None:
        site.interface.end(current())
        session["name"] = "bob"

    site.visit(end_and_write)
    assert site.calls == ["destroy"]
    assert list(site.store.inner.key_ids_in_use()) == []


def test_a_session_describes_itself_to_its_user(site: Site, backend: Backend, clock: Clock) -> None:
    owner = backend.new_owner()
    site.visit(start(site, owner))
    expected = {"created_at": clock.now, "last_seen_at": clock.now, "ip": "192.0.2.1"}
    assert site.interface.describe(site.key, site.record) == expected
    assert site.interface.describe(record_key("another"), site.record) is None


# Damage.


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


def unheard_of_key(site: Site) -> Fields:
    return {"name": RecordCipher(Keyring("encryption", (FOREIGN,)), site.key).encrypt("name", b"\xa3ada")}


DAMAGES: dict[str, tuple[Callable[[Site], Fields], str]] = {
    "garbage": (damage_with(b"garbage"), "format"),
    "nothing": (damage_with(b""), "format"),
    "pickle": (damage_with(b"\x80\x04\x95" + b"." * 40), "format"),
    "plain text": (damage_with(msgspec.msgpack.encode({"user_id": 1, "is_admin": True, "padding": "x" * 40})), "format"),
    "copied field": (copied_field, "authentication"),
    "copied record": (copied_record, "authentication"),
    "flipped bit": (flipped_bit, "authentication"),
    "unheard-of key": (unheard_of_key, "unknown key"),
}


@pytest.mark.parametrize("kind", DAMAGES)
def test_a_damaged_record_is_a_fresh_start_that_is_counted(site: Site, kind: str, caplog: pytest.LogCaptureFixture) -> None:
    damage, reason = DAMAGES[kind]
    site.visit(remember())
    key = site.key
    for name, value in damage(site).items():
        site.store.inner.merge(key, {name: Change(value)}, None)
    before = count_of("reporadar_session_integrity_failures_total", reason=reason)
    assert site.see(whole) == {}
    assert site.calls == ["load", "destroy"]
    assert count_of("reporadar_session_integrity_failures_total", reason=reason) == before + 1
    assert site.store.inner.load(key) is None
    assert reason in caplog.text
    site.visit(remember())
    assert site.key != key


@pytest.mark.parametrize("name", [".created", ".seen"])
def test_a_record_that_lacks_its_times_is_a_fresh_start(site: Site, name: str) -> None:
    site.visit(remember())
    site.store.inner.merge(site.key, {name: Change(None)}, None)
    before = count_of("reporadar_session_integrity_failures_total", reason="incomplete")
    assert site.see(whole) == {}
    assert count_of("reporadar_session_integrity_failures_total", reason="incomplete") == before + 1


def test_a_damaged_record_does_not_show_in_the_log(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    site.visit(remember())
    site.store.inner.merge(site.key, {"name": Change(b"a-value-to-find")}, None)
    site.visit(whole)
    assert "rejected" in caplog.text
    assert "a-value-to-find" not in caplog.text
    assert site.cookie.partition(".")[0] not in caplog.text


# Keys.


def test_a_record_under_a_key_that_only_others_hold_is_left_for_them(make_site: MakeSite) -> None:
    ahead, behind = make_site(encryption=(NEW, OLD)), make_site(encryption=(OLD,))
    known = frozenset({NEW_ID, OLD_ID})
    ahead.encryption.apply_fleet_state(NEW_ID, known)
    behind.encryption.apply_fleet_state(NEW_ID, known)
    ahead.visit(remember())
    before = ahead.record
    move(ahead, behind)
    response = behind.visit(whole)
    assert response.status_code == 503
    assert response.content_type == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    assert behind.calls == ["load"]
    assert ahead.record == before
    assert ahead.see(whole) == {"name": "ada"}


def test_a_record_under_an_unheard_of_key_is_given_up_only_after_asking_the_fleet(make_site: MakeSite) -> None:
    ahead, behind = make_site(encryption=(NEW, OLD)), make_site(encryption=(OLD,))
    ahead.visit(remember())
    before = ahead.record
    move(ahead, behind)
    behind.refresh_keys = lambda: behind.encryption.apply_fleet_state(NEW_ID, frozenset({NEW_ID, OLD_ID}))
    assert behind.visit(whole).status_code == 503
    assert behind.calls == ["load"]
    assert ahead.record == before


def test_a_record_is_not_given_up_while_the_fleet_can_not_be_asked(make_site: MakeSite) -> None:
    def no_answer() -> None:
        raise Unavailable("The registry does not answer.")

    ahead, behind = make_site(encryption=(NEW, OLD)), make_site(encryption=(OLD,))
    ahead.visit(remember())
    before = ahead.record
    move(ahead, behind)
    behind.refresh_keys = no_answer
    assert behind.visit(whole).status_code == 503
    assert behind.calls == ["load"]
    assert ahead.record == before


def test_the_fleet_is_not_asked_about_what_is_known(make_site: MakeSite) -> None:
    def never() -> None:
        raise AssertionError

    site = make_site(encryption=(NEW, OLD))
    site.refresh_keys = never
    site.visit(remember())
    assert site.see(whole) == {"name": "ada"}
    site.store.inner.merge(site.key, {"name": Change(b"garbage")}, None)
    assert site.see(whole) == {}


def test_a_record_moves_to_the_active_key_when_it_is_read_next(make_site: MakeSite, clock: Clock) -> None:
    old, new = make_site(encryption=(OLD,)), make_site(encryption=(NEW, OLD))
    old.visit(remember("one", 1))
    old.visit(remember("two", [2]))
    move(old, new)
    assert new.see(whole) == {"one": 1, "two": [2]}
    assert new.calls == ["load", "merge"]
    assert {name: encryption_key_id(value) for name, value in new.record.items() if name != SIGNED} == dict.fromkeys(
        ("one", "two", ".created", ".seen"), NEW_ID
    )
    assert new.see(whole) == {"one": 1, "two": [2]}
    assert new.calls == ["load"]


def test_a_move_to_another_key_does_not_undo_a_faster_write(make_site: MakeSite) -> None:
    old, new = make_site(encryption=(OLD,)), make_site(encryption=(NEW, OLD))
    old.visit(remember("name", "ada"))
    move(old, new)

    def slow() -> object:
        found = dict(session)
        old.client.set_cookie("session", new.cookie)
        old.visit(remember("name", "bob"))
        return found

    assert new.see(slow) == {"name": "ada"}
    assert new.see(whole) == {"name": "bob"}


# A store that is down.


@pytest.fixture
def visited(site: Site) -> Site:
    site.visit(remember())
    return site


def test_a_store_that_is_down_is_one_503_for_who_reads(visited: Site) -> None:
    visited.store.out_of_order = {"load", "create", "merge", "destroy"}
    response = visited.visit(whole)
    assert response.status_code == 503
    assert int(response.headers["Retry-After"]) > 0
    assert visited.calls == ["load"]
    assert response.headers.getlist("Set-Cookie") == []


@pytest.mark.parametrize(("known", "calls"), [(False, ["create"]), (True, ["load", "merge"])], ids=["new", "known"])
def test_a_store_that_is_down_at_the_end_is_one_503_for_who_writes(site: Site, known: bool, calls: list[str]) -> None:
    if known:
        site.visit(remember())
    site.store.out_of_order = {"create", "merge", "destroy"}
    response = site.visit(remember("name", "bob"))
    assert response.status_code == 503
    assert response.content_type == "application/problem+json"
    assert int(response.headers["Retry-After"]) > 0
    assert site.calls == calls
    assert response.headers.getlist("Set-Cookie") == []


def test_a_store_that_comes_back_still_knows_the_session(visited: Site) -> None:
    visited.store.out_of_order = {"load"}
    assert visited.visit(whole).status_code == 503
    visited.store.out_of_order = set()
    assert visited.see(whole) == {"name": "ada"}


def test_who_can_not_be_signed_out_is_told_so(visited: Site) -> None:
    visited.store.out_of_order = {"destroy"}
    response = visited.visit(lambda: visited.interface.end(current()))
    assert response.status_code == 503
    assert response.headers.getlist("Set-Cookie") == []
    visited.store.out_of_order = set()
    assert visited.see(whole) == {"name": "ada"}


def test_a_session_that_could_not_be_begun_is_not_begun_by_the_error(site: Site, backend: Backend) -> None:
    owner = backend.new_owner()

    def start_in_vain() -> object:
        site.store.out_of_order = {"create"}
        try:
            return site.interface.start(current(), owner, {}, {"user_id": owner.user_id})
        except Unavailable:
            site.store.out_of_order = set()  # it was a short disturbance
            raise

    response = site.visit(start_in_vain)
    assert response.status_code == 503
    assert site.calls == ["create"]
    assert response.headers.getlist("Set-Cookie") == []
    assert list(backend.store.key_ids_in_use()) == []
