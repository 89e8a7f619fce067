from __future__ import annotations

import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Connection

from app.analysis import network
from app.analysis.address import Address, AddressRefused
from app.auth import store as accounts
from app.core import config
from app.core.errors import Conflict, Invalid, NotFound, NotSignedIn, TooMany
from app.database.engine import Database
from app.notifications.service import Notifications
from app.repositories import service, store
from app.repositories.service import MAX_COMPARED, Analysis, Repositories
from tests.unit.repositories.conftest import Published, claimed, let_time_pass, new_repository, new_user, report, started

FLASK, CLICK = "https://example.org/pallets/flask", "https://example.org/pallets/click"


@pytest.fixture(autouse=True)
def no_dns_lookups(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "refuse_private", lambda *_: None)


@pytest.fixture
def sent() -> list[int]:
    """The IDs of enqueued analyses."""
    return []


@pytest.fixture
def repositories(both: Database, notifications: Notifications, embedded: dict[str, str], sent: list[int]) -> Repositories:
    return Repositories(config.load(embedded), both, notifications, sent.append)


@pytest.fixture
def ada(both: Database) -> int:
    return new_user(both)


@pytest.fixture
def bob(both: Database) -> int:
    return new_user(both, "bob@example.org")


def test_added_repository_is_followed_and_analysed(repositories: Repositories, ada: int, sent: list[int]) -> None:
    repository, analysis = repositories.add(ada, FLASK)
    assert (repository.url, repository.name, analysis.status) == (FLASK, "pallets/flask", "queued")
    assert [found.id for found in repositories.list(ada)] == [repository.id]
    assert sent == [analysis.id]


def test_same_url_is_one_repository_for_all_users(repositories: Repositories, ada: int, bob: int, sent: list[int]) -> None:
    assert repositories.add(ada, FLASK) == repositories.add(bob, FLASK) == repositories.add(ada, FLASK)
    assert len(sent) == 1


def test_no_new_analysis_while_the_report_is_fresh(both: Database, repositories: Repositories, ada: int, sent: list[int]) -> None:
    _, first = repositories.add(ada, FLASK)
    both.run(store.succeed, claimed(both, first), report())
    assert repositories.add(ada, FLASK)[1].id == first.id
    let_time_pass(both, first, timedelta(seconds=61), "finished_at")
    assert repositories.add(ada, FLASK)[1].id != first.id
    assert len(sent) == 2


def test_open_pages_learn_of_a_new_repository_even_without_a_new_analysis(
    both: Database, repositories: Repositories, ada: int, bob: int, published: Published
) -> None:
    _, analysis = repositories.add(ada, FLASK)
    both.run(store.succeed, claimed(both, analysis), report())
    repositories.import_from(bob, FLASK)
    told = [(data["user_id"], data["analysis"]["status"]) for kind, data in published if kind == "analysis"]
    assert told == [(ada, "queued"), (bob, "succeeded")]


def test_live_analyses_per_user_are_limited(
    repositories: Repositories, ada: int, bob: int, sent: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_LIVE_ANALYSES", 2)
    followed, _ = repositories.add(ada, FLASK)
    repositories.add(ada, CLICK)
    with pytest.raises(TooMany) as refused:
        repositories.add(ada, f"{CLICK}/third")
    assert refused.value.headers["Retry-After"] == "30"
    assert len(repositories.list(ada)) == len(sent) == 2  # the refused one was rolled back
    assert repositories.analyse(ada, followed.id).id == sent[0]  # a running one does not count again
    repositories.add(bob, f"{CLICK}/third")


def test_daily_analyses_do_not_count_as_requested(
    both: Database, repositories: Repositories, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_LIVE_ANALYSES", 1)
    daily = [started(both, new_repository(both, ada, url=f"{CLICK}/{number}")) for number in range(3)]
    repositories.add(ada, FLASK)
    with pytest.raises(TooMany):
        repositories.add(ada, CLICK)
    assert repositories.analyse(ada, daily[0].repository_id).id == daily[0].id  # nothing new to start


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)  # SQLite runs one transaction after the other
def test_limit_of_followed_repositories_holds_for_concurrent_requests(
    repositories: Repositories, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_FOLLOWED", 2)
    repositories.add(ada, FLASK)
    counted, count_followed = threading.Barrier(2), store.count_followed

    def count_at_the_same_time(connection: Connection, user_id: int) -> int:
        number = count_followed(connection, user_id)
        with suppress(threading.BrokenBarrierError):
            counted.wait(0.3)
        return number

    monkeypatch.setattr(store, "count_followed", count_at_the_same_time)
    with ThreadPoolExecutor(2) as threads:
        attempts = [threads.submit(repositories.add, ada, f"{CLICK}/{number}") for number in range(2)]
    assert [type(attempt.exception()) for attempt in attempts].count(Invalid) == 1
    assert len(repositories.list(ada)) == 2


@pytest.mark.parametrize("both", ["postgresql"], indirect=True)
def test_no_analysis_is_left_if_its_repository_is_unfollowed_when_it_starts(
    both: Database, repositories: Repositories, ada: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository, start_analysis = new_repository(both, ada), store.start_analysis
    unfollowing = threading.Thread(target=repositories.unfollow, args=(ada, repository.id))

    def unfollow_and_start(*arguments: Any, **options: Any) -> tuple[Analysis, bool]:
        unfollowing.start()
        unfollowing.join(0.2)
        return start_analysis(*arguments, **options)

    monkeypatch.setattr(store, "start_analysis", unfollow_and_start)
    started = repositories.analyse(ada, repository.id)
    unfollowing.join()
    analysis = both.run(store.get_analysis, started.id)
    assert analysis is not None
    assert analysis.status == "cancelled"


def test_deleted_account_adds_nothing(both: Database, repositories: Repositories, ada: int) -> None:
    """The account may be deleted after the request has been authenticated."""
    repository, _ = repositories.add(ada, FLASK)
    both.run(accounts.remove, ada)
    for attempt in (lambda: repositories.add(ada, CLICK), lambda: repositories.analyse(ada, repository.id)):
        with pytest.raises(NotSignedIn):
            attempt()


def test_deletion_of_an_account_cancels_the_analyses_that_nobody_else_waits_for(
    both: Database, repositories: Repositories, ada: int, bob: int
) -> None:
    _, alone = repositories.add(ada, FLASK)
    _, shared = repositories.add(ada, CLICK)
    repositories.add(bob, CLICK)
    lease = claimed(both, alone)
    both.run(repositories.erase_account, ada)
    assert not both.run(store.leases.renew, lease)
    found = [both.run(store.get_analysis, analysis.id) for analysis in (alone, shared)]
    assert [analysis.status for analysis in found if analysis] == ["cancelled", "queued"]
    assert repositories.list(ada) == []


def test_adding_after_a_failure_starts_an_analysis(both: Database, repositories: Repositories, ada: int) -> None:
    _, first = repositories.add(ada, FLASK)
    both.run(store.fail, claimed(both, first), "no")
    assert repositories.add(ada, FLASK)[1].id != first.id


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a", "https://ada:secret@example.org/a", "--upload-pack=x", "/etc", "https://"]
)
def test_forbidden_address_is_invalid(repositories: Repositories, ada: int, url: str) -> None:
    with pytest.raises(Invalid) as raised:
        repositories.add(ada, url)
    assert [fault["field"] for fault in raised.value.errors] == ["url"]
    assert repositories.list(ada) == []


def test_private_host_is_invalid(repositories: Repositories, ada: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: Address, _allowed: object) -> None:
        raise AddressRefused(f"{address.host} is private.")

    monkeypatch.setattr(network, "refuse_private", refuse)
    with pytest.raises(Invalid, match=r"example\.org is private\."):
        repositories.add(ada, FLASK)


def test_local_repository_must_be_below_a_root(
    both: Database, notifications: Notifications, embedded: dict[str, str], ada: int, tmp_path: Path
) -> None:
    subprocess.run(["git", "init", "--quiet", "--bare", str(tmp_path / "inside" / "one.git")], check=True)
    settings = config.load({**embedded, "REPOSITORY_ROOTS": str(tmp_path / "inside")})
    repositories = Repositories(settings, both, notifications, lambda _: None)
    assert repositories.add(ada, str(tmp_path / "inside" / "one.git"))[0].name == "one"
    with pytest.raises(Invalid):
        repositories.add(ada, str(tmp_path / "inside" / ".."))


def test_local_path_that_is_too_long_for_the_database_is_invalid(
    both: Database, notifications: Notifications, embedded: dict[str, str], ada: int, tmp_path: Path
) -> None:
    path = tmp_path.joinpath(*["\N{CJK UNIFIED IDEOGRAPH-8CC7}" * 84] * 14)
    subprocess.run(["git", "init", "--quiet", "--bare", str(path)], check=True)
    repositories = Repositories(config.load({**embedded, "REPOSITORY_ROOTS": str(tmp_path)}), both, notifications, lambda _: None)
    with pytest.raises(Invalid, match="must not be longer than 2000 bytes"):
        repositories.add(ada, str(path))


def test_followed_repositories_per_user_are_limited(
    repositories: Repositories, ada: int, bob: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(service, "MAX_FOLLOWED", 1)
    repositories.add(ada, FLASK)
    repositories.add(ada, FLASK)
    with pytest.raises(Invalid, match="You already follow 1 repositories, the maximum"):
        repositories.add(ada, CLICK)
    repositories.add(bob, CLICK)
    assert len(repositories.list(ada)) == 1


def test_unfollowed_repository_and_its_analysis_are_not_found(repositories: Repositories, ada: int, bob: int) -> None:
    repository, analysis = repositories.add(ada, FLASK)
    for unknown in (repository.id, 4711):
        for method in (repositories.get, repositories.unfollow, repositories.analyse, repositories.require_followed):
            with pytest.raises(NotFound):
                method(bob, unknown)
        with pytest.raises(NotFound):
            repositories.compare(bob, [unknown])
    for unknown in (analysis.id, 4711):
        for method_for_analysis in (repositories.analysis, repositories.cancel):
            with pytest.raises(NotFound):
                method_for_analysis(bob, unknown)


def test_get_returns_report_and_history(both: Database, repositories: Repositories, ada: int) -> None:
    repository = new_repository(both, ada)
    assert repositories.get(ada, repository.id).report is None
    both.run(store.succeed, claimed(both, started(both, repository)), report(overall=1))
    both.run(store.succeed, claimed(both, started(both, repository)), report(overall=2))
    found = repositories.get(ada, repository.id)
    assert found.report == report(overall=2)
    assert [past.scores["overall"] for past in found.history] == [2, 1]
    (listed,) = repositories.list(ada)
    assert (listed.report, listed.history) == (None, [])


def test_comparison_keeps_the_order_of_the_ids(both: Database, repositories: Repositories, ada: int) -> None:
    ids = [new_repository(both, ada, url=f"https://example.org/{number}").id for number in range(MAX_COMPARED + 1)]
    assert [found.id for found in repositories.compare(ada, [ids[2], ids[0]])] == [ids[2], ids[0]]
    with pytest.raises(Invalid):
        repositories.compare(ada, ids)


def test_analyse_starts_an_analysis_unless_one_is_live(
    both: Database, repositories: Repositories, ada: int, sent: list[int]
) -> None:
    repository, first = repositories.add(ada, FLASK)
    assert repositories.analyse(ada, repository.id) == first  # it has not finished
    both.run(store.succeed, claimed(both, first), report())
    second = repositories.analyse(ada, repository.id)
    assert sent == [first.id, second.id]
    assert repositories.analysis(ada, first.id).report == report()
    assert repositories.analysis(ada, second.id).report is None


def test_only_the_sole_follower_can_cancel(repositories: Repositories, ada: int, bob: int, published: Published) -> None:
    repository, analysis = repositories.add(ada, FLASK)
    repositories.add(bob, FLASK)
    with pytest.raises(Conflict, match="Other users follow"):
        repositories.cancel(ada, analysis.id)
    repositories.unfollow(bob, repository.id)
    assert repositories.cancel(ada, analysis.id).status == "cancelled"
    with pytest.raises(Conflict, match="has already finished"):
        repositories.cancel(ada, analysis.id)
    assert published.statuses() == ["queued", "queued", "cancelled"]


def test_unfollowing_by_the_last_follower_cancels_the_analysis(
    repositories: Repositories, ada: int, bob: int, both: Database
) -> None:
    repository, analysis = repositories.add(ada, FLASK)
    repositories.add(bob, FLASK)
    repositories.unfollow(ada, repository.id)
    assert repositories.analysis(bob, analysis.id).analysis.status == "queued"
    repositories.unfollow(bob, repository.id)
    latest = both.run(store.latest_analysis, repository.id)
    assert latest is not None
    assert latest.status == "cancelled"
