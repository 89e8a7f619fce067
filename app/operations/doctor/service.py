"""The order of the examination: what can't be asked without an answer to something else is left out, and that is said."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from urllib.parse import urlsplit

import redis

from app.auth.service import Accounts
from app.core.config import Config
from app.core.errors import Unavailable
from app.database.engine import Database
from app.notifications.service import Notifications
from app.operations.doctor import configuration, fleet, messages, proxy, store
from app.operations.doctor import database as databases
from app.operations.doctor import redis as redises
from app.operations.doctor.findings import Finding, fail, warn
from app.operations.doctor.fleet import Report
from app.operations.doctor.reach import reach
from app.operations.doctor.site import Site, Unreachable, within
from app.operations.doctor.visitor import FORGED_ADDRESS, Login, Refused, Visitor, log_in, sessions_are_shared
from app.sessions.store import SessionStore

LONGEST_SECONDS = 60.0  # an account that is older was left behind

Findings = Iterator[Finding]


@dataclass(frozen=True)
class Doctor:
    config: Config
    database: Database
    redis: redis.Redis | None  # None in embedded mode
    sessions: SessionStore
    accounts: Accounts
    notifications: Notifications
    fleet_report: Callable[[], Report] | None  # None: nobody is registered anywhere

    def examine(self, urls: Sequence[str]) -> Findings:
        yield from configuration.examine(self.config)
        redis_answers = yield from self._reach_redis()
        report = self._report() if redis_answers else None
        living = fleet.live_ids(report) if report else []
        if self.redis and redis_answers:
            yield from redises.examine(self.redis, len(living))
        database_works = yield from databases.examine(self.config, self.database, max(1, len(living)))
        if report:
            yield from fleet.examine(report)
        yield from self._visit([Site(url) for url in urls], living, stores_work=redis_answers and database_works)

    def _reach_redis(self) -> Generator[Finding, None, bool]:
        if self.redis is None:
            return True
        where = redises.address(self.config)
        try:
            if host := urlsplit(self.config.redis_url or "").hostname:
                within(redises.TIMEOUT_SECONDS, lambda: redises.look_up(host))
        except Unreachable as error:
            yield fail(f"redis does not answer: {where}: {error}", redises.AWAY)
            return False
        return (yield from redises.reach(self.redis, where))

    def _report(self) -> Report | None:
        try:
            return self.fleet_report() if self.fleet_report else None
        except Unavailable:
            return None

    def _visit(self, sites: Sequence[Site], living: Sequence[str], *, stores_work: bool) -> Findings:
        reachable = []
        for site in sites:
            if (yield from reach(site, living)):
                reachable.append(site)
                yield from proxy.examine(site, self.config.production)
        names = sorted(set[str]().union(*(site.instances for site in reachable)))
        if len(names) > 1 and not self.config.use_redis_sessions:
            yield fail(
                f"several instances answer ({', '.join(names)}), but here is embedded mode, which is for one",
                "Run the doctor with the environment of the instances; if that is it, they need USE_REDIS_SESSIONS=true",
            )
        if reachable and stores_work:
            try:
                with self._visitor() as visitor:
                    yield from self._sign_in(reachable, visitor)
            except Unavailable as unavailable:
                yield fail(
                    f"sessions: the examination was broken off: {unavailable.detail}", "See what was found about the database"
                )
        elif reachable:
            yield warn(
                "sessions, messages and the client address were not examined: they need Redis and the database",
                "Mend what was found about those first, then ask the doctor again",
            )

    def _sign_in(self, sites: Sequence[Site], visitor: Visitor) -> Findings:
        logins: list[Login] = []
        forged: list[Login] = []
        try:
            for site in sites:
                try:
                    logins.append(log_in(site, visitor))
                    forged.append(log_in(site, visitor, X_Forwarded_For=FORGED_ADDRESS))
                except Refused as refused:
                    yield refused.finding
            if not logins:
                return
            yield from sessions_are_shared(logins, self.sessions)
            for plain, forgery in ((one, two) for one in logins for two in forged if one.site is two.site):
                yield from proxy.client_address(plain, forgery, self.config.trusted_proxies)
            yield from messages.examine(
                logins, self.config.socket_transports, lambda: self._notify(visitor), pushed=self.redis is not None
            )
        finally:
            for login in [*logins, *forged]:
                with suppress(Unreachable):
                    login.end()

    def _notify(self, visitor: Visitor) -> int:
        return self.notifications.send(visitor.id, "message", "From the doctor", {}).seq

    @contextmanager
    def _visitor(self) -> Iterator[Visitor]:
        """An account for as long as the block lasts, whatever happens in it."""
        email, password = f"doctor-{secrets.token_hex(8)}@doctor.invalid", secrets.token_urlsafe(24)
        for user_id in self.database.run(store.forgotten, 2 * LONGEST_SECONDS):
            self.accounts.delete_without_password(user_id)
        user = self.accounts.add_without_limit(email, password)
        try:
            yield Visitor(user.id, email, password)
        finally:
            with suppress(Unavailable):  # what an address did not answer any more to end
                self.sessions.destroy_all(user.id, keep=None)
            self.accounts.delete_without_password(user.id)


def examine_without_configuration(faults: Sequence[str], urls: Sequence[str]) -> Findings:
    """What can be said all the same."""
    yield from configuration.faults(faults)
    for site in map(Site, urls):
        if (yield from reach(site, [])):
            yield from proxy.examine(site, production=False)
    yield warn(
        "Redis, the database, the fleet and sessions were not examined", "Mend the configuration, then ask the doctor again"
    )
