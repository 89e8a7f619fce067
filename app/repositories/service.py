"""The repositories that a user follows, and their analyses. For a user, repositories that they do not follow do not exist."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any, Final, Literal

from sqlalchemy import Connection

from app.analysis import address, network
from app.analysis.address import Address, AddressRefused
from app.core.config import Config
from app.core.errors import Conflict, Invalid, NotFound, TooMany
from app.core.threads import NativeThreads
from app.database import clock
from app.database.engine import Database
from app.database.locks import lock_user
from app.jobs.leases import SUCCEEDED
from app.notifications.service import Notifications, Subscription
from app.repositories import store
from app.repositories.found_addresses import MAX_TEXT_LENGTH, FoundAddress, find_addresses
from app.repositories.store import FIRST_FORMULA_VERSION, Analysis, FollowedRepository, PastAnalysis, Repository
from app.repositories.tags import normalize

__all__ = ["FIRST_FORMULA_VERSION", "Analysis", "FollowedRepository", "PastAnalysis", "Repositories", "Repository"]

MAX_FOLLOWED = 200  # repositories per user
MAX_COMPARED = 4
MAX_LIVE_ANALYSES = 50  # unfinished analyses that one user has requested
RETRY_AFTER_SECONDS = 30
FRESH = timedelta(seconds=60)  # adding a repository does not start an analysis if there is a report this young

NEW: Final = "new"
ADDED: Final = "added"
KNOWN: Final = "known"
REFUSED: Final = "refused"
MAX_LOOKUP_SECONDS = 4.0  # that an import waits for DNS

Enqueue = Callable[[int], None]  # analysis ID; does not raise


@dataclass(frozen=True)
class ImportResult:
    """The outcome for one address of a text."""

    address: str  # as it stands in the text
    status: Literal["new", "added", "known", "refused"]
    url: str | None = None  # of the repository; None if it is refused
    repository: Repository | None = None  # if the user follows it
    reason: str | None = None  # why it is refused


@dataclass(frozen=True)
class AnalysisWithReport:
    """An analysis, and its report if it succeeded."""

    analysis: Analysis
    report: dict[str, Any] | None


class Repositories:
    """All methods raise NotFound for repositories that the user does not follow, and for their analyses."""

    def __init__(self, config: Config, database: Database, notifications: Notifications, enqueue: Enqueue) -> None:
        self._roots = config.repository_roots
        self._allowed_networks = config.repository_allowed_networks
        self._database = database
        self._notifications = notifications
        self._enqueue = enqueue
        self._recognition = NativeThreads(1)

    def add(self, user_id: int, url: str) -> tuple[Repository, Analysis]:
        """Follow a repository, and analyse it unless its report is fresh. Raises Invalid for an address that is not allowed."""
        try:
            parsed = address.parse(url, self._roots)
            network.refuse_private(parsed, self._allowed_networks)
        except AddressRefused as refused:
            raise Invalid.field("url", str(refused)) from None
        return self._follow(user_id, parsed)

    def find_in(self, user_id: int, text: str) -> list[ImportResult]:
        """Find the addresses in a text. The results are NEW, KNOWN or REFUSED. Raises Invalid if the text is too long."""
        if len(text) > MAX_TEXT_LENGTH:
            raise Invalid.field("text", f"The text has more than {MAX_TEXT_LENGTH:,} characters.")
        found = self._recognition.run(find_addresses, text, self._roots)
        followed = self._database.run(store.followed_by_url, user_id)
        return [_found(one, followed) for one in found]

    def import_from(self, user_id: int, text: str) -> list[ImportResult]:
        """Follow the repositories whose addresses are found in a text, and analyse them. Raises Invalid if it is too long.

        The results are ADDED, KNOWN or REFUSED. The analyses count as requested by the user, and so do their limits.
        """
        lookups_end = time.monotonic() + MAX_LOOKUP_SECONDS
        found = self.find_in(user_id, text)
        return [self._import(user_id, one, lookups_end) if one.status == NEW else one for one in found]

    def _import(self, user_id: int, found: ImportResult, lookups_end: float) -> ImportResult:
        assert found.url
        try:
            parsed = address.parse(found.url, self._roots)
            if time.monotonic() < lookups_end:  # otherwise the address is checked only when it is fetched
                network.refuse_private(parsed, self._allowed_networks)
            repository, _ = self._follow(user_id, parsed)
        except AddressRefused as refused:
            return replace(found, status=REFUSED, url=None, reason=str(refused))
        except (Invalid, TooMany) as problem:
            return replace(
                found, status=REFUSED, url=None, reason=problem.errors[0]["message"] if problem.errors else problem.detail
            )
        return replace(found, status=ADDED, repository=repository)

    def _follow(self, user_id: int, parsed: Address) -> tuple[Repository, Analysis]:
        """Follow a repository and analyse it if needed. The user's open pages learn of it by the state of its analysis."""
        repository, analysis, to_enqueue = self._database.run(_add, user_id, parsed.url, parsed.name)
        self._notifications.publish_analysis([user_id], analysis.state)
        if to_enqueue:
            self._enqueue(analysis.id)
        return repository, analysis

    def list(self, user_id: int) -> list[FollowedRepository]:
        """Return the followed repositories, last followed first, without reports and history."""
        return self._database.run(store.list_followed, user_id)

    def get(self, user_id: int, repository_id: int) -> FollowedRepository:
        """Return a repository with its report and history."""
        return self._database.run(_get_with_report_and_history, user_id, repository_id)

    def compare(self, user_id: int, repository_ids: Sequence[int]) -> Sequence[FollowedRepository]:
        """Return repositories with their reports, in the order of the IDs."""
        if len(repository_ids) > MAX_COMPARED:
            raise Invalid.field("ids", f"At most {MAX_COMPARED} repositories can be compared.")
        return self._database.run(_get_with_reports, user_id, repository_ids)

    def require_followed(self, user_id: int, repository_id: int) -> None:
        if not self._database.run(store.is_followed, user_id, repository_id):
            raise _unknown_repository()

    def subscription(self, user_id: int, repository_id: int) -> Subscription:
        """Return which types of notifications a user gets about a repository."""
        return self._database.run(self._subscription, user_id, repository_id)

    def subscribe(self, user_id: int, repository_id: int, types: Mapping[str, bool], *, inherit: bool) -> Subscription:
        """Choose the types of notifications about a repository, or inherit the user's default. Raises Invalid."""
        return self._database.run(self._subscribe, user_id, repository_id, types, inherit)

    def tag(self, user_id: int, repository_id: int, tags: Sequence[str]) -> Sequence[str]:
        """Replace the user's tags of a repository, and return them as they were saved. Raises Invalid."""
        return self._database.run(_tag, user_id, repository_id, normalize(tags))

    def add_tag(self, user_id: int, repository_ids: Sequence[int], tag: str) -> None:
        """Add a tag to those of the repositories that the user follows. Raises Invalid."""
        self._database.run(_add_tag, user_id, repository_ids, normalize([tag]))

    def unfollow(self, user_id: int, repository_id: int) -> None:
        """Stop following a repository.

        Without other followers, its analysis is cancelled, and the repository is deleted within a day.
        """
        for cancelled in self._database.run(_unfollow, user_id, repository_id):
            self._notifications.publish_analysis([user_id], cancelled.state)

    def erase_account(self, connection: Connection, user_id: int) -> None:
        """Stop following all repositories in the transaction that deletes the account."""
        store.cancel_unfollowed(connection, store.unfollow_all(connection, user_id))

    def analyse(self, user_id: int, repository_id: int) -> Analysis:
        """Start an analysis, or return the one that is waiting or running."""
        analysis, to_enqueue = self._database.run(_analyse, user_id, repository_id)
        if to_enqueue:
            self._enqueue(analysis.id)
        return analysis

    def analysis(self, user_id: int, analysis_id: int) -> AnalysisWithReport:
        return self._database.run(_get_analysis_with_report, user_id, analysis_id)

    def cancel(self, user_id: int, analysis_id: int) -> Analysis:
        """Cancel an analysis. Raises Conflict if it has finished, or if other users follow the repository."""
        cancelled = self._database.run(_cancel, user_id, analysis_id)
        self._notifications.publish_analysis([user_id], cancelled.state)
        return cancelled

    def _subscription(self, connection: Connection, user_id: int, repository_id: int) -> Subscription:
        if not store.is_followed(connection, user_id, repository_id):
            raise _unknown_repository()
        default = self._notifications.default_subscriptions(connection, [user_id])[user_id]
        return Subscription.of(store.subscription(connection, user_id, repository_id), default)

    def _subscribe(
        self, connection: Connection, user_id: int, repository_id: int, types: Mapping[str, bool], inherit: bool
    ) -> Subscription:
        current = self._subscription(connection, user_id, repository_id)
        default = self._notifications.default_subscriptions(connection, [user_id])[user_id]
        chosen = current.change(types, default, inherit=inherit)
        store.save_subscription(connection, user_id, repository_id, None if chosen.inherited else chosen.types)
        return chosen


def _add(connection: Connection, user_id: int, url: str, name: str) -> tuple[Repository, Analysis, bool]:
    lock_user(connection, user_id)
    repository = store.add_repository(connection, url, name)
    if not store.is_followed(connection, user_id, repository.id):
        if store.count_followed(connection, user_id) >= MAX_FOLLOWED:
            text = f"You already follow {MAX_FOLLOWED} repositories, the maximum. Remove one first."
            raise Invalid.field("url", text)
        store.follow(connection, user_id, repository.id)
    latest = store.latest_analysis(connection, repository.id)
    if latest and _is_fresh(connection, latest):
        return repository, latest, False
    return repository, *_start(connection, user_id, repository.id)


def _found(found: FoundAddress, followed: Mapping[str, Repository]) -> ImportResult:
    if found.address is None:
        return ImportResult(found.text, REFUSED, reason=found.reason)
    known = followed.get(found.address.url)
    return ImportResult(found.text, KNOWN if known else NEW, found.address.url, known)


def _start(connection: Connection, user_id: int, repository_id: int) -> tuple[Analysis, bool]:
    """Return the live analysis, and whether to enqueue it. Raises TooMany. The caller has locked the user and the repository."""
    to_enqueue = False
    if store.count_requested_analyses(connection, user_id) < MAX_LIVE_ANALYSES:
        live, to_enqueue = store.start_analysis(connection, repository_id, requested_by=user_id)
    elif found := store.live_analysis(connection, repository_id):
        live = found
    else:
        text = f"{MAX_LIVE_ANALYSES} of your analyses are waiting or running. Try again when one has finished."
        raise TooMany(text, RETRY_AFTER_SECONDS)
    store.record_request(connection, live.id, user_id)
    return live, to_enqueue


def _is_fresh(connection: Connection, analysis: Analysis) -> bool:
    finished_at = analysis.finished_at if analysis.status == SUCCEEDED else None
    return finished_at is not None and clock.now(connection) - finished_at < FRESH


def _get(connection: Connection, user_id: int, repository_id: int) -> FollowedRepository:
    found = store.list_followed(connection, user_id, [repository_id])
    if not found:
        raise _unknown_repository()
    return found[0]


def _get_with_report(connection: Connection, user_id: int, repository_id: int) -> FollowedRepository:
    found = _get(connection, user_id, repository_id)
    last = found.last_success
    return replace(found, report=store.get_report(connection, last.analysis_id)) if last else found


def _get_with_report_and_history(connection: Connection, user_id: int, repository_id: int) -> FollowedRepository:
    found = _get_with_report(connection, user_id, repository_id)
    return replace(found, history=store.history(connection, repository_id))


def _get_with_reports(connection: Connection, user_id: int, repository_ids: Sequence[int]) -> list[FollowedRepository]:
    return [_get_with_report(connection, user_id, repository_id) for repository_id in repository_ids]


def _unfollow(connection: Connection, user_id: int, repository_id: int) -> Sequence[Analysis]:
    """Return the analysis that was cancelled, if any."""
    store.lock_repository(connection, repository_id)
    if not store.unfollow(connection, user_id, repository_id):
        raise _unknown_repository()
    return store.cancel_unfollowed(connection, [repository_id])


def _tag(connection: Connection, user_id: int, repository_id: int, tags: list[str]) -> list[str]:
    if not store.is_followed(connection, user_id, repository_id):
        raise _unknown_repository()
    store.save_tags(connection, user_id, repository_id, tags)
    return tags


def _add_tag(connection: Connection, user_id: int, repository_ids: Sequence[int], tag: list[str]) -> None:
    lock_user(connection, user_id)
    for repository_id, tags in sorted(store.tags_of(connection, user_id, repository_ids).items()):
        store.save_tags(connection, user_id, repository_id, normalize([*tags, *tag]))


def _analyse(connection: Connection, user_id: int, repository_id: int) -> tuple[Analysis, bool]:
    lock_user(connection, user_id)
    store.lock_repository(connection, repository_id)
    if not store.is_followed(connection, user_id, repository_id):
        raise _unknown_repository()
    return _start(connection, user_id, repository_id)


def _get_analysis_with_report(connection: Connection, user_id: int, analysis_id: int) -> AnalysisWithReport:
    analysis = _get_analysis(connection, user_id, analysis_id)
    return AnalysisWithReport(analysis, store.get_report(connection, analysis_id))


def _cancel(connection: Connection, user_id: int, analysis_id: int) -> Analysis:
    analysis = _get_analysis(connection, user_id, analysis_id)
    store.lock_repository(connection, analysis.repository_id)
    if store.followers(connection, analysis.repository_id) != [user_id]:
        raise Conflict("Other users follow this repository too and wait for the analysis.")
    if not store.cancel(connection, analysis_id):
        raise Conflict("This analysis has already finished.")
    return _get_analysis(connection, user_id, analysis_id)


def _get_analysis(connection: Connection, user_id: int, analysis_id: int) -> Analysis:
    analysis = store.get_analysis(connection, analysis_id)
    if analysis is None or not store.is_followed(connection, user_id, analysis.repository_id):
        raise NotFound("You follow no repository with this analysis.")
    return analysis


def _unknown_repository() -> NotFound:
    return NotFound("You do not follow this repository.")
