"""The whole application of an embedded instance: what is asked, what is stored."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from datetime import datetime
from typing import Any

import gevent
import pytest
from flask import Flask, Response
from flask.testing import FlaskClient
from sqlalchemy import select

from app.analytics import store, tracking
from app.analytics.catalogue import BY_NAME, DECLARED_EVENTS, FUNNELS
from app.analytics.events import Event
from app.analytics.tracking import Recorder
from app.core.errors import Unavailable
from app.database.engine import Database
from app.database.schema import events, people
from app.repositories.service import FollowedRepository
from tests.unit.analytics.conftest import NOW, event
from tests.unit.conftest import MakeApp, count_of

PASSWORD = "correct horse battery staple"
GPC = {"Sec-GPC": "1"}


def sign_up(client: FlaskClient, email: str = "ada@example.org") -> None:
    assert client.post("/api/auth/register", json={"email": email, "password": PASSWORD}).status_code == 201


def sign_in(client: FlaskClient, email: str = "ada@example.org") -> None:
    assert client.post("/api/auth/login", json={"email": email, "password": PASSWORD}).status_code == 200


def some(count: int = 1, name: str = "clicked") -> dict[str, Any]:
    return {"events": [{"id": str(uuid.uuid4()), "name": name, "category": "test"} for _ in range(count)]}


def choice(client: FlaskClient, **headers: Any) -> dict[str, Any]:
    answer: dict[str, Any] = client.get("/api/analytics/opt-out", **headers).get_json()
    return answer


def send(client: FlaskClient, count: int = 1, **headers: Any) -> tuple[int, bool]:
    """How many were accepted, and whether that is because of a no."""
    answer = client.post("/api/analytics/events", json=some(count), **headers)
    assert answer.status_code == 202
    return answer.get_json()["accepted"], answer.get_json()["opted_out"]


@pytest.fixture
def stored(app: Flask) -> Callable[[], Counter[str]]:
    """How many events of each name there are, after what was recorded has been handed on."""

    def count() -> Counter[str]:
        app.extensions["recorder"].flush()
        database: Database = app.extensions["database"]
        return Counter(database.run(lambda connection: list(connection.execute(select(events.c.name)).scalars())))

    return count


Stored = Callable[[], Counter[str]]


class TestChoice:
    def test_at_first_there_is_none(self, client: FlaskClient) -> None:
        assert choice(client) == {"opted_out": False, "reason": None, "fenced_at": None}

    def test_an_anonymous_no_is_a_cookie_that_names_nobody(self, client: FlaskClient) -> None:
        answer = client.put("/api/analytics/opt-out")
        assert (answer.get_json()["opted_out"], answer.get_json()["reason"]) == (True, "session")
        assert answer.get_json()["fenced_at"]
        (cookie,) = answer.headers.getlist("Set-Cookie")
        assert cookie == f"analytics=no; {cookie.split('; ')[1]}; Max-Age=31536000; Path=/; SameSite=Lax"
        assert choice(client)["reason"] == "session"
        assert send(client) == (0, True)

    def test_a_yes_takes_it_back(self, client: FlaskClient, stored: Stored) -> None:
        client.put("/api/analytics/opt-out")
        assert client.delete("/api/analytics/opt-out").get_json() == {"opted_out": False, "reason": None, "fenced_at": None}
        assert client.get_cookie("analytics") is None
        assert send(client, 2) == (2, False)
        assert stored()["clicked"] == 2

    def test_an_accounts_no_holds_in_every_browser(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        fenced_at = client.put("/api/analytics/opt-out").get_json()["fenced_at"]
        other = app.test_client()
        sign_in(other)
        assert choice(other) == {"opted_out": True, "reason": "user", "fenced_at": fenced_at}
        assert send(other) == (0, True)
        assert stored()["clicked"] == 0

    def test_it_holds_in_this_browser_after_signing_out(self, client: FlaskClient) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out")
        client.post("/api/auth/logout")
        assert choice(client)["reason"] == "session"

    @pytest.mark.parametrize("enter", [sign_up, sign_in])
    def test_a_browsers_no_is_carried_over_to_the_account(
        self, app: Flask, client: FlaskClient, enter: Callable[[FlaskClient], None]
    ) -> None:
        if enter is sign_in:
            sign_up(app.test_client())
        client.put("/api/analytics/opt-out")
        enter(client)
        assert choice(client)["reason"] == "user"
        other = app.test_client()
        sign_in(other)
        assert choice(other)["reason"] == "user"

    def test_who_signs_in_while_the_no_can_not_be_saved_does_not_get_in(
        self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sign_up(app.test_client())
        client.put("/api/analytics/opt-out")
        monkeypatch.setattr(app.extensions["analytics"], "opt_out", unavailable)
        answer = client.post("/api/auth/login", json={"email": "ada@example.org", "password": PASSWORD})
        assert (answer.status_code, client.get_cookie("session")) == (503, None)

    def test_in_production_the_cookie_belongs_to_this_host_alone(self, make_app: MakeApp) -> None:
        client = make_app(APP_ENV="production").test_client()
        (cookie,) = client.put("/api/analytics/opt-out", base_url="https://localhost").headers.getlist("Set-Cookie")
        assert cookie.startswith("__Host-analytics=no; ")
        assert "Secure" in cookie

    def test_an_account_that_is_gone_is_not_signed_in(self, app: Flask, client: FlaskClient) -> None:
        sign_up(client)
        client.delete("/api/auth/account", json={"password": PASSWORD})
        assert choice(client)["opted_out"] is False

    def test_a_visitors_no_reaches_what_was_recorded_before(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        client.get("/")
        client.put("/api/analytics/opt-out")
        assert stored() == Counter()

    def test_after_a_yes_nothing_is_taken_of_the_time_before(self, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        meanwhile = client.put("/api/analytics/opt-out").get_json()["fenced_at"]
        client.delete("/api/analytics/opt-out")
        batch = [some(1, "meanwhile")["events"][0] | {"occurred_at": meanwhile}, some(1, "now")["events"][0]]
        client.post("/api/analytics/events", json={"events": batch})
        assert (stored()["meanwhile"], stored()["now"]) == (0, 1)

    def test_the_database_is_asked_once(self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out")
        app.extensions["analytics"]._intake._cache.clear()  # as after a while
        asked: list[object] = []
        standing = store.consent
        monkeypatch.setattr(store, "consent", lambda *args: asked.append(args) or standing(*args))  # type: ignore[func-returns-value]
        for _ in range(3):
            assert choice(client)["reason"] == "user"
        assert len(asked) == 1


class TestGlobalPrivacyControl:
    def test_it_is_a_no_from_the_first_request(self, client: FlaskClient, stored: Stored) -> None:
        assert choice(client, headers=GPC) == {"opted_out": True, "reason": "gpc", "fenced_at": None}
        assert send(client, headers=GPC) == (0, True)
        for page in ("/", "/register"):
            assert client.get(page, headers=GPC).status_code == 200
        assert stored() == Counter()

    def test_it_is_not_persisted(self, client: FlaskClient) -> None:
        choice(client, headers=GPC)
        assert choice(client)["opted_out"] is False

    def test_it_beats_a_yes(self, client: FlaskClient) -> None:
        sign_up(client)
        assert client.delete("/api/analytics/opt-out", headers=GPC).get_json()["reason"] == "gpc"
        assert send(client, headers=GPC) == (0, True)

    def test_a_no_of_ones_own_is_told_first(self, client: FlaskClient) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out", headers=GPC)
        assert choice(client, headers=GPC)["reason"] == "user"

    @pytest.mark.parametrize("value", ["0", "true", "", "1.0", "1, 1", "yes"])
    def test_no_other_value_is_a_wish(self, client: FlaskClient, value: str) -> None:
        assert choice(client, headers={"Sec-GPC": value})["opted_out"] is False

    def test_the_site_says_that_it_respects_it(self, client: FlaskClient) -> None:
        answer = client.get("/.well-known/gpc.json")
        assert (answer.mimetype, answer.get_json()["gpc"]) == ("application/json", True)


class TestEvents:
    def test_each_is_judged_alone(self, client: FlaskClient, stored: Stored) -> None:
        batch = {"events": [some()["events"][0], {"name": "bad"}, 7, {**some()["events"][0], "properties": {"email": "x"}}]}
        answer = client.post("/api/analytics/events", json=batch)
        assert answer.status_code == 202
        assert (answer.get_json()["accepted"], answer.get_json()["opted_out"]) == (1, False)
        assert [one["index"] for one in answer.get_json()["rejected"]] == [1, 2, 3]
        assert answer.get_json()["rejected"][2]["errors"][0]["field"] == "properties.email"
        assert stored()["clicked"] == 1

    def test_others_have_their_turn_while_many_are_judged(self, app: Flask) -> None:
        turns = []

        def wait_again_and_again() -> None:
            while True:
                gevent.sleep(0.0001)
                turns.append("somebody else's")

        other = gevent.spawn(wait_again_and_again)
        with app.app_context():
            tracking.validate(some(100)["events"])
        other.kill()
        assert len(turns) > 5

    @pytest.mark.parametrize("count", [0, 101])
    def test_there_are_1_to_100_at_a_time(self, client: FlaskClient, count: int) -> None:
        assert client.post("/api/analytics/events", json=some(count)).status_code == 422

    def test_the_same_event_is_stored_once(self, client: FlaskClient, stored: Stored) -> None:
        batch = some(3)
        for _ in range(3):
            assert client.post("/api/analytics/events", json=batch).get_json()["accepted"] == 3
        assert stored()["clicked"] == 3

    def test_nothing_that_tells_who_it_was_is_stored(self, app: Flask, client: FlaskClient) -> None:
        sign_up(client)
        send(client, environ_base={"REMOTE_ADDR": "203.0.113.7"}, headers={"User-Agent": "Telltale/1.0"})
        anonymous = app.test_client()
        send(anonymous, environ_base={"REMOTE_ADDR": "203.0.113.8"}, headers={"User-Agent": "Telltale/1.0"})
        database: Database = app.extensions["database"]
        rows = database.run(lambda connection: [str(row) for row in connection.execute(select(events))])
        assert len(rows) == 2
        session = client.get_cookie("session")
        assert session is not None
        secret = session.value.partition(".")[0]
        assert not any(word in row for row in rows for word in ("203.0.113", "Telltale", "ada@", secret))

    def test_visitors_are_told_apart_by_address_and_browser(self, app: Flask, client: FlaskClient) -> None:
        for address, browser in [("203.0.113.7", "A"), ("203.0.113.7", "A"), ("203.0.113.7", "B"), ("203.0.113.8", "A")]:
            send(client, environ_base={"REMOTE_ADDR": address}, headers={"User-Agent": browser})
        database: Database = app.extensions["database"]
        assert len(database.run(lambda connection: connection.execute(select(people)).all())) == 3

    def test_who_can_not_be_asked_is_not_counted(self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        sign_up(client)
        monkeypatch.setattr(app.extensions["analytics"], "accept", unavailable)
        answer = client.post("/api/analytics/events", json=some())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


def unavailable(*_: object, **__: object) -> Any:
    raise Unavailable("The store does not answer.")


class TestErasing:
    def test_an_accounts_events_are_gone(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        other = app.test_client()
        sign_up(other, "bob@example.org")
        send(client, 3)
        send(other, 2)
        answer = client.delete("/api/analytics/me")
        assert answer.get_json()["erased"] == 3
        assert answer.get_json()["not_linkable_before"].endswith("T00:00:00.000Z")
        assert stored()["clicked"] == 2

    def test_a_visitors_events_of_today_are_gone(self, client: FlaskClient, stored: Stored) -> None:
        send(client, 3)
        send(client, 1, environ_base={"REMOTE_ADDR": "203.0.113.8"})
        assert client.delete("/api/analytics/me").get_json()["erased"] == 3
        assert stored()["clicked"] == 1

    def test_with_the_account_its_events_go(self, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        send(client, 3)
        client.delete("/api/auth/account", json={"password": PASSWORD})
        assert stored()["clicked"] == 0


class TestRecording:
    def test_what_people_do_is_recorded_by_the_table(self, client: FlaskClient, stored: Stored) -> None:
        client.get("/")
        client.get("/register")
        sign_up(client)
        client.get("/notifications")
        assert stored() == Counter(page_viewed=3, sign_up_opened=1, signed_up=1, notifications_opened=1)

    def test_what_fails_is_not_recorded(self, client: FlaskClient, stored: Stored) -> None:
        client.post("/api/auth/register", json={"email": "ada@example.org", "password": "short"})
        client.post("/register", data={"email": "ada@example.org", "password": "short"})
        client.get("/no-such-page")
        for response in (client.get("/settings"), client.get("/notifications"), client.post("/", data={"url": "/srv/a"})):
            assert response.location.startswith("/login")
        assert stored() == Counter()

    def test_a_path_names_no_repository(self, app: Flask, client: FlaskClient) -> None:
        with app.test_request_context("/repositories/12"):
            assert tracking.page_path() == "/repositories/<id>"

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Dest": "empty"}, {"Sec-Purpose": "prefetch"}])
    def test_what_nobody_opened_is_not_recorded(self, client: FlaskClient, stored: Stored, headers: dict[str, str]) -> None:
        client.get("/", headers=headers)
        client.get("/register", headers=headers)
        client.head("/register")
        assert stored() == Counter()

    def test_a_report_that_comes_while_one_waits_is_looked_at_once(
        self, app: Flask, client: FlaskClient, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sign_up(client)
        entry = FollowedRepository(7, "https://example.org/x", "x", NOW, None, None)
        monkeypatch.setattr(app.extensions["repositories"], "get", lambda *_: entry)
        page, by_script = "/repositories/7", {"Sec-Fetch-Dest": "empty"}
        assert b"data-awaited" in client.get(page).data
        assert stored()["report_viewed"] == 0
        monkeypatch.setattr("app.web.repositories.page", lambda *_, **__: Response("the page", content_type="text/html"))
        monkeypatch.setattr(app.extensions["repositories"], "get", lambda *_: replace(entry, report={"languages": {}}))
        client.get(page, headers=by_script | {"X-Awaited": "report"})
        assert stored()["report_viewed"] == 1
        client.get(page, headers=by_script)
        assert stored()["report_viewed"] == 1
        client.get(page)
        assert stored()["report_viewed"] == 2

    def test_nothing_is_recorded_after_a_no(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out")
        before = stored()
        other = app.test_client()
        sign_in(other)
        for browser in (client, other):
            for page in ("/", "/notifications", "/settings", "/register"):
                assert browser.get(page).status_code == 200
        assert stored() == before

    def test_a_page_that_does_not_look_at_the_session_does_not_know_who_it_was(
        self, app: Flask, client: FlaskClient, stored: Stored
    ) -> None:
        """The account may have said no."""
        sign_up(client)
        before = stored()
        client.get("/register")
        assert stored() == before
        app.test_client().get("/register")
        assert stored()["sign_up_opened"] == 1

    def test_a_store_that_is_down_costs_a_page_nothing(
        self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app.extensions["analytics"], "accept", unavailable)
        monkeypatch.setattr(app.extensions["analytics"], "identify_visitor", unavailable)
        assert client.get("/").status_code == 200

    def test_the_table_names_what_there_is(self, app: Flask) -> None:
        endpoints = {endpoint for kind in DECLARED_EVENTS for endpoint in kind.endpoints}
        assert endpoints <= set(app.view_functions)
        assert {step for steps in FUNNELS.values() for step in steps} <= set(BY_NAME)

    def test_the_index_of_the_funnels_holds_their_steps(self) -> None:
        (index,) = [index for index in events.indexes if index.name == "ix_analytics_events_steps"]
        condition = str(index.dialect_options["postgresql"]["where"].compile(compile_kwargs={"literal_binds": True}))
        steps = [step for steps in FUNNELS.values() for step in steps]
        assert condition == f"analytics_events.name IN ({', '.join(repr(step) for step in steps)})"


class Analytics:
    """Takes what it is given, unless it is down."""

    def __init__(self) -> None:
        self.taken: list[str] = []
        self.refused_at: datetime | None = None
        self.down = False
        self.poison = ""

    def identify_visitor(self, address: str, _user_agent: str) -> str:
        return address

    def has_opted_out_since(self, _person: Any, moment: datetime) -> bool:
        return self.refused_at is not None and self.refused_at >= moment

    def accept(self, _person: Any, batch: list[Event]) -> bool:
        if self.down:
            raise Unavailable("down")
        if self.poison in [one.name for one in batch]:
            raise ValueError(self.poison)
        self.taken += [one.name for one in batch]
        return True


def recorded(name: str) -> tracking.BufferedEvent:
    return tracking.BufferedEvent(tracking.AnonymousVisitor("203.0.113.7", "A"), event(name))


class TestRecorder:
    @pytest.fixture
    def analytics(self) -> Analytics:
        return Analytics()

    @pytest.fixture
    def recorder(self, analytics: Analytics, monkeypatch: pytest.MonkeyPatch) -> Recorder:
        monkeypatch.setattr(tracking, "RETRY_SECONDS", 0.01)
        return Recorder(analytics)  # type: ignore[arg-type]

    def test_it_hands_on_in_order_and_outlasts_a_short_outage(self, recorder: Recorder, analytics: Analytics) -> None:
        running = gevent.spawn(recorder.run)
        analytics.down = True
        recorder.put(recorded("first"))
        recorder.put(recorded("second"))
        gevent.sleep(0.05)
        assert analytics.taken == []
        analytics.down = False
        with gevent.Timeout(5):
            while len(analytics.taken) < 2:
                gevent.sleep(0.01)
        running.kill()
        assert analytics.taken == ["first", "second"]

    def test_in_a_long_outage_it_gives_up(
        self, recorder: Recorder, analytics: Analytics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracking, "MAX_BUFFER_SECONDS", 0.05)
        before = count_of("reporadar_events_unrecorded_total")
        analytics.down = True
        recorder.put(recorded("lost"))
        with gevent.Timeout(5):
            recorder.flush()
        assert count_of("reporadar_events_unrecorded_total") == before + 1

    def test_one_that_can_not_be_taken_delays_nobody(self, recorder: Recorder, analytics: Analytics) -> None:
        analytics.poison = "odd"
        for name in ("odd", "even"):
            recorder.put(recorded(name))
        recorder.flush()
        assert analytics.taken == ["even"]

    def test_a_no_reaches_what_waits_here(self, recorder: Recorder, analytics: Analytics) -> None:
        recorder.put(recorded("before the no"))
        analytics.refused_at = NOW
        recorder.put(recorded("on its way"))
        recorder.flush()
        assert analytics.taken == []

    def test_at_the_end_it_gives_up_at_once(self, recorder: Recorder, analytics: Analytics) -> None:
        analytics.down = True
        recorder.put(recorded("lost"))
        with gevent.Timeout(1):
            recorder.close()

    def test_it_does_not_grow(self, recorder: Recorder, analytics: Analytics, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracking, "MAX_BUFFERED", 2)
        for name in ("one", "two", "three"):
            recorder.put(recorded(name))
        recorder.flush()
        assert analytics.taken == ["one", "two"]

    def test_what_is_recorded_is_handed_on_before_the_end(self, app: Flask, client: FlaskClient) -> None:
        client.get("/")
        lifecycle = app.extensions["lifecycle"]
        names = [name for name, _ in lifecycle._closers]
        assert names.index("analytics") > names.index("database")  # closed in reverse
        app.extensions["recorder"].flush()
        database: Database = app.extensions["database"]
        assert database.run(lambda connection: list(connection.execute(select(events.c.name)).scalars())) == ["page_viewed"]
