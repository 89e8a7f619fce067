"""Requests to an embedded instance, and the events that are stored."""

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
from app.notifications.subscription import Subscription
from app.repositories.service import FollowedRepository
from harness.greenlets import until
from harness.processes import PATIENCE_SECONDS
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
    """Return the number of accepted events, and `opted_out`."""
    answer = client.post("/api/analytics/events", json=some(count), **headers)
    assert answer.status_code == 202
    return answer.get_json()["accepted"], answer.get_json()["opted_out"]


@pytest.fixture
def stored(app: Flask) -> Callable[[], Counter[str]]:
    """Flush the recorder and return the number of stored events by name."""

    def count() -> Counter[str]:
        app.extensions["recorder"].flush()
        database: Database = app.extensions["database"]
        return Counter(database.run(lambda connection: list(connection.execute(select(events.c.name)).scalars())))

    return count


Stored = Callable[[], Counter[str]]


class TestChoice:
    def test_nobody_has_opted_out_at_first(self, client: FlaskClient) -> None:
        assert choice(client) == {"opted_out": False, "reason": None, "fenced_at": None}

    def test_anonymous_opt_out_is_a_cookie_without_an_identifier(self, client: FlaskClient) -> None:
        answer = client.put("/api/analytics/opt-out")
        assert (answer.get_json()["opted_out"], answer.get_json()["reason"]) == (True, "session")
        assert answer.get_json()["fenced_at"]
        (cookie,) = answer.headers.getlist("Set-Cookie")
        assert cookie == f"analytics=no; {cookie.split('; ')[1]}; Max-Age=31536000; Path=/; SameSite=Lax"
        assert choice(client)["reason"] == "session"
        assert send(client) == (0, True)

    def test_opt_in_removes_the_opt_out(self, client: FlaskClient, stored: Stored) -> None:
        client.put("/api/analytics/opt-out")
        assert client.delete("/api/analytics/opt-out").get_json() == {"opted_out": False, "reason": None, "fenced_at": None}
        assert client.get_cookie("analytics") is None
        assert send(client, 2) == (2, False)
        assert stored()["clicked"] == 2

    def test_opt_out_of_an_account_applies_in_every_browser(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        fenced_at = client.put("/api/analytics/opt-out").get_json()["fenced_at"]
        other = app.test_client()
        sign_in(other)
        assert choice(other) == {"opted_out": True, "reason": "user", "fenced_at": fenced_at}
        assert send(other) == (0, True)
        assert stored()["clicked"] == 0

    def test_opt_out_of_an_account_applies_to_this_browser_after_sign_out(self, client: FlaskClient) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out")
        client.post("/api/auth/logout")
        assert choice(client)["reason"] == "session"

    @pytest.mark.parametrize("enter", [sign_up, sign_in])
    def test_opt_out_of_a_browser_is_copied_to_the_account(
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

    def test_sign_in_fails_if_the_opt_out_cannot_be_saved(
        self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sign_up(app.test_client())
        client.put("/api/analytics/opt-out")
        monkeypatch.setattr(app.extensions["analytics"], "opt_out", unavailable)
        answer = client.post("/api/auth/login", json={"email": "ada@example.org", "password": PASSWORD})
        assert (answer.status_code, client.get_cookie("reporadar_session")) == (503, None)

    def test_cookie_has_host_prefix_in_production(self, make_app: MakeApp) -> None:
        client = make_app(APP_ENV="production").test_client()
        (cookie,) = client.put("/api/analytics/opt-out", base_url="https://localhost").headers.getlist("Set-Cookie")
        assert cookie.startswith("__Host-analytics=no; ")
        assert "Secure" in cookie

    def test_deleted_account_is_not_signed_in(self, app: Flask, client: FlaskClient) -> None:
        sign_up(client)
        client.delete("/api/auth/account", json={"password": PASSWORD})
        assert choice(client)["opted_out"] is False

    def test_opt_out_of_a_visitor_drops_buffered_events(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        client.get("/")
        client.put("/api/analytics/opt-out")
        assert stored() == Counter()

    def test_event_dated_before_the_opt_in_is_not_stored(self, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        meanwhile = client.put("/api/analytics/opt-out").get_json()["fenced_at"]
        client.delete("/api/analytics/opt-out")
        batch = [some(1, "meanwhile")["events"][0] | {"occurred_at": meanwhile}, some(1, "now")["events"][0]]
        client.post("/api/analytics/events", json={"events": batch})
        assert (stored()["meanwhile"], stored()["now"]) == (0, 1)

    def test_consent_is_read_from_sql_once(self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out")
        app.extensions["analytics"]._intake._cache.clear()  # as after a while
        asked: list[object] = []
        find = store.find_consent
        monkeypatch.setattr(store, "find_consent", lambda *args: asked.append(args) or find(*args))  # type: ignore[func-returns-value]
        for _ in range(3):
            assert choice(client)["reason"] == "user"
        assert len(asked) == 1


class TestGlobalPrivacyControl:
    def test_gpc_is_an_opt_out_from_the_first_request(self, client: FlaskClient, stored: Stored) -> None:
        assert choice(client, headers=GPC) == {"opted_out": True, "reason": "gpc", "fenced_at": None}
        assert send(client, headers=GPC) == (0, True)
        for page in ("/", "/register"):
            assert client.get(page, headers=GPC).status_code == 200
        assert stored() == Counter()

    def test_gpc_is_not_stored(self, client: FlaskClient) -> None:
        choice(client, headers=GPC)
        assert choice(client)["opted_out"] is False

    def test_gpc_overrides_an_opt_in(self, client: FlaskClient) -> None:
        sign_up(client)
        assert client.delete("/api/analytics/opt-out", headers=GPC).get_json()["reason"] == "gpc"
        assert send(client, headers=GPC) == (0, True)

    def test_opt_out_of_the_account_is_reported_before_gpc(self, client: FlaskClient) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out", headers=GPC)
        assert choice(client, headers=GPC)["reason"] == "user"

    @pytest.mark.parametrize("value", ["0", "true", "", "1.0", "11", "yes"])
    def test_other_values_of_gpc_have_no_effect(self, client: FlaskClient, value: str) -> None:
        assert choice(client, headers={"Sec-GPC": value})["opted_out"] is False

    def test_gpc_support_is_published(self, client: FlaskClient) -> None:
        answer = client.get("/.well-known/gpc.json")
        assert (answer.mimetype, answer.get_json()["gpc"]) == ("application/json", True)


class TestEvents:
    def test_invalid_event_does_not_affect_the_others(self, client: FlaskClient, stored: Stored) -> None:
        batch = {"events": [some()["events"][0], {"name": "bad"}, 7, {**some()["events"][0], "properties": {"email": "x"}}]}
        answer = client.post("/api/analytics/events", json=batch)
        assert answer.status_code == 202
        assert (answer.get_json()["accepted"], answer.get_json()["opted_out"]) == (1, False)
        assert [one["index"] for one in answer.get_json()["rejected"]] == [1, 2, 3]
        assert answer.get_json()["rejected"][2]["errors"][0]["field"] == "properties.email"
        assert stored()["clicked"] == 1

    def test_other_greenlets_run_during_validation(self, app: Flask) -> None:
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
    def test_batch_has_1_to_100_events(self, client: FlaskClient, count: int) -> None:
        assert client.post("/api/analytics/events", json=some(count)).status_code == 422

    def test_repeated_event_is_stored_once(self, client: FlaskClient, stored: Stored) -> None:
        batch = some(3)
        for _ in range(3):
            assert client.post("/api/analytics/events", json=batch).get_json()["accepted"] == 3
        assert stored()["clicked"] == 3

    def test_no_identifying_data_is_stored(self, app: Flask, client: FlaskClient) -> None:
        sign_up(client)
        send(client, environ_base={"REMOTE_ADDR": "203.0.113.7"}, headers={"User-Agent": "Telltale/1.0"})
        anonymous = app.test_client()
        send(anonymous, environ_base={"REMOTE_ADDR": "203.0.113.8"}, headers={"User-Agent": "Telltale/1.0"})
        database: Database = app.extensions["database"]
        rows = database.run(lambda connection: [str(row) for row in connection.execute(select(events))])
        assert len(rows) == 2
        session = client.get_cookie("reporadar_session")
        assert session is not None
        secret = session.value.partition(".")[0]
        assert not any(word in row for row in rows for word in ("203.0.113", "Telltale", "ada@", secret))

    def test_visitors_are_distinguished_by_address_and_user_agent(self, app: Flask, client: FlaskClient) -> None:
        for address, browser in [("203.0.113.7", "A"), ("203.0.113.7", "A"), ("203.0.113.7", "B"), ("203.0.113.8", "A")]:
            send(client, environ_base={"REMOTE_ADDR": address}, headers={"User-Agent": browser})
        database: Database = app.extensions["database"]
        assert len(database.run(lambda connection: connection.execute(select(people)).all())) == 3

    def test_unavailable_store_answers_503(self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
        sign_up(client)
        monkeypatch.setattr(app.extensions["analytics"], "accept", unavailable)
        answer = client.post("/api/analytics/events", json=some())
        assert (answer.status_code, answer.headers["Retry-After"]) == (503, "2")


def unavailable(*_: object, **__: object) -> Any:
    raise Unavailable("The store does not answer.")


class TestErasing:
    def test_events_of_an_account_are_erased(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        other = app.test_client()
        sign_up(other, "bob@example.org")
        send(client, 3)
        send(other, 2)
        answer = client.delete("/api/analytics/me")
        assert answer.get_json()["erased"] == 3
        assert answer.get_json()["not_linkable_before"].endswith("T00:00:00.000Z")
        assert stored()["clicked"] == 2

    def test_events_of_a_visitor_from_today_are_erased(self, client: FlaskClient, stored: Stored) -> None:
        send(client, 3)
        send(client, 1, environ_base={"REMOTE_ADDR": "203.0.113.8"})
        assert client.delete("/api/analytics/me").get_json()["erased"] == 3
        assert stored()["clicked"] == 1

    def test_deleting_an_account_erases_its_events(self, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        send(client, 3)
        client.delete("/api/auth/account", json={"password": PASSWORD})
        assert stored()["clicked"] == 0


class TestRecording:
    def test_declared_events_are_recorded(self, client: FlaskClient, stored: Stored) -> None:
        client.get("/")
        client.get("/register")
        sign_up(client)
        client.get("/notifications")
        assert stored() == Counter(page_viewed=3, sign_up_opened=1, signed_up=1, notifications_opened=1)

    def test_sign_up_by_form_is_recorded(self, client: FlaskClient, stored: Stored) -> None:
        client.post("/register", data={"email": "ada@example.org", "password": PASSWORD})
        assert stored()["signed_up"] == 1

    def test_endpoints_of_declared_events_exist(self, app: Flask) -> None:
        declared = {endpoint for event in DECLARED_EVENTS for endpoint in event.endpoints}
        assert declared - set(app.view_functions) == set()

    def test_failed_requests_are_not_recorded(self, client: FlaskClient, stored: Stored) -> None:
        client.post("/api/auth/register", json={"email": "ada@example.org", "password": "short"})
        client.post("/register", data={"email": "ada@example.org", "password": "short"})
        client.get("/no-such-page")
        for response in (client.get("/settings"), client.get("/notifications"), client.post("/", data={"url": "/srv/a"})):
            assert response.location.startswith("/login")
        assert stored() == Counter()

    def test_path_has_a_placeholder_for_the_repository(self, app: Flask, client: FlaskClient) -> None:
        with app.test_request_context("/repositories/12"):
            assert tracking.page_path() == "/repositories/<id>"

    @pytest.mark.parametrize("headers", [{"Sec-Fetch-Dest": "empty"}, {"Sec-Purpose": "prefetch"}])
    def test_requests_that_are_not_visits_are_not_recorded(
        self, client: FlaskClient, stored: Stored, headers: dict[str, str]
    ) -> None:
        client.get("/", headers=headers)
        client.get("/register", headers=headers)
        client.head("/register")
        assert stored() == Counter()

    def test_awaited_report_is_viewed_once(
        self, app: Flask, client: FlaskClient, stored: Stored, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        sign_up(client)
        entry = FollowedRepository(7, "https://example.org/x", "x", NOW, None, None)
        monkeypatch.setattr(app.extensions["repositories"], "get", lambda *_: entry)
        monkeypatch.setattr(app.extensions["repositories"], "subscription", lambda *_: Subscription.of(None, {}))
        page, by_script = "/repositories/7", {"Sec-Fetch-Dest": "empty"}
        assert b"data-awaited" in client.get(page).data
        assert stored()["report_viewed"] == 0
        monkeypatch.setattr("app.web.repositories.render", lambda *_, **__: Response("the page", content_type="text/html"))
        monkeypatch.setattr(app.extensions["repositories"], "get", lambda *_: replace(entry, report={"languages": {}}))
        client.get(page, headers=by_script | {"X-Awaited": "report"})
        assert stored()["report_viewed"] == 1
        client.get(page, headers=by_script)
        assert stored()["report_viewed"] == 1
        client.get(page)
        assert stored()["report_viewed"] == 2

    def test_nothing_is_recorded_after_an_opt_out(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        sign_up(client)
        client.put("/api/analytics/opt-out")
        before = stored()
        other = app.test_client()
        sign_in(other)
        for browser in (client, other):
            for page in ("/", "/notifications", "/settings", "/register"):
                assert browser.get(page).status_code == 200
        assert stored() == before

    def test_page_that_does_not_read_the_session_is_not_recorded(self, app: Flask, client: FlaskClient, stored: Stored) -> None:
        """The account behind the session may have opted out."""
        sign_up(client)
        before = stored()
        client.get("/register")
        assert stored() == before
        app.test_client().get("/register")
        assert stored()["sign_up_opened"] == 1

    def test_page_loads_while_the_store_is_unavailable(
        self, app: Flask, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(app.extensions["analytics"], "accept", unavailable)
        monkeypatch.setattr(app.extensions["analytics"], "identify_visitor", unavailable)
        assert client.get("/").status_code == 200

    def test_endpoints_and_steps_of_declared_events_exist(self, app: Flask) -> None:
        endpoints = {endpoint for kind in DECLARED_EVENTS for endpoint in kind.endpoints}
        assert endpoints <= set(app.view_functions)
        assert {step for steps in FUNNELS.values() for step in steps} <= set(BY_NAME)

    def test_funnel_index_contains_all_steps(self) -> None:
        (index,) = [index for index in events.indexes if index.name == "ix_analytics_events_steps"]
        condition = str(index.dialect_options["postgresql"]["where"].compile(compile_kwargs={"literal_binds": True}))
        steps = [step for steps in FUNNELS.values() for step in steps]
        assert condition == f"analytics_events.name IN ({', '.join(repr(step) for step in steps)})"


class Analytics:
    """A fake analytics service."""

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

    def test_recorder_keeps_the_order_through_a_short_outage(self, recorder: Recorder, analytics: Analytics) -> None:
        running = gevent.spawn(recorder.run)
        analytics.down = True
        recorder.put(recorded("first"))
        recorder.put(recorded("second"))
        gevent.sleep(0.05)
        assert analytics.taken == []
        analytics.down = False
        until(lambda: len(analytics.taken) == 2)
        running.kill()
        assert analytics.taken == ["first", "second"]

    def test_recorder_drops_events_in_a_long_outage(
        self, recorder: Recorder, analytics: Analytics, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(tracking, "MAX_BUFFER_SECONDS", 0.05)
        before = count_of("reporadar_events_unrecorded_total")
        analytics.down = True
        recorder.put(recorded("lost"))
        with gevent.Timeout(PATIENCE_SECONDS):
            recorder.flush()
        assert count_of("reporadar_events_unrecorded_total") == before + 1

    def test_failing_event_does_not_delay_others(self, recorder: Recorder, analytics: Analytics) -> None:
        analytics.poison = "odd"
        for name in ("odd", "even"):
            recorder.put(recorded(name))
        recorder.flush()
        assert analytics.taken == ["even"]

    def test_opt_out_drops_buffered_events(self, recorder: Recorder, analytics: Analytics) -> None:
        recorder.put(recorded("before the no"))
        analytics.refused_at = NOW
        recorder.put(recorded("on its way"))
        recorder.flush()
        assert analytics.taken == []

    def test_closing_does_not_retry(self, recorder: Recorder, analytics: Analytics) -> None:
        analytics.down = True
        recorder.put(recorded("lost"))
        with gevent.Timeout(tracking.MAX_BUFFER_SECONDS / 2):
            recorder.close()

    def test_buffer_is_bounded(self, recorder: Recorder, analytics: Analytics, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(tracking, "MAX_BUFFERED", 2)
        for name in ("one", "two", "three"):
            recorder.put(recorded(name))
        recorder.flush()
        assert analytics.taken == ["one", "two"]

    def test_recorder_is_flushed_before_the_database_closes(self, app: Flask, client: FlaskClient) -> None:
        client.get("/")
        lifecycle = app.extensions["lifecycle"]
        names = [name for name, _ in lifecycle._closers]
        assert names.index("analytics") > names.index("database")  # closed in reverse
        app.extensions["recorder"].flush()
        database: Database = app.extensions["database"]
        assert database.run(lambda connection: list(connection.execute(select(events.c.name)).scalars())) == ["page_viewed"]
