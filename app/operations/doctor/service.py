"""The order of the checks. A check whose precondition fails is skipped, and a finding says so."""

import secrets
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial

import redis

from app.auth.service import Accounts
from app.core.config import Config
from app.core.errors import Unavailable
from app.database.engine import Database
from app.notifications.service import Notifications
from app.operations.doctor import certificates, configuration, fleet, mail, messages, proxy, sentinel, store, workers
from app.operations.doctor import database as databases
from app.operations.doctor import redis as redises
from app.operations.doctor.client import FORGED_ADDRESS, SignedInSession, SignInRefused, TestClient, sessions_are_shared
from app.operations.doctor.findings import Finding, fail, warn
from app.operations.doctor.fleet import Report
from app.operations.doctor.reach import reach
from app.operations.doctor.site import Site, Unreachable, within
from app.redis.sentinel import Sentinels
from app.sessions.store import SessionStore

ABANDONED_AFTER_SECONDS = 120.0  # an older temporary account was left behind by a killed doctor
FIX_REDIS = "Fix the findings about Redis first, then run the doctor again"
FIX_DATABASE = "Fix the findings about the database first, then run the doctor again"

Findings = Iterator[Finding]


@dataclass(frozen=True)
class Doctor:
    config: Config
    database: Database
    redis: redis.Redis | None  # None in embedded mode
    sessions: SessionStore
    accounts: Accounts
    notifications: Notifications
    fleet_report: Callable[[], Report] | None  # None in embedded mode, which has no registry
    worker_monitor: workers.WorkerCheck | None = None  # None in embedded mode, which has no workers
    sentinels: Sentinels | None = None  # where REDIS_URL names some

    def examine(self, urls: Sequence[str]) -> Findings:
        yield from configuration.examine(self.config)
        redis_answers = yield from self._reach_redis()
        write_error = redises.write_error(self.redis) if self.redis and redis_answers else None
        report = self._report() if redis_answers and not write_error else None
        live = fleet.live_ids(report) if report else []
        if self.redis and redis_answers:
            yield from redises.examine(self.redis, len(live), has_failover=self.sentinels is not None)
        instances = None if self.fleet_report and report is None else max(1, len(live))
        database_works = yield from databases.examine(self.config, self.database, instances)
        if report:
            yield from fleet.examine(report)
        elif self.fleet_report:
            reason = f"Redis refuses writes ({write_error})" if write_error else "Redis does not answer"
            yield warn(f"fleet: the instances and workers were not examined, because {reason}", FIX_REDIS)
        if report and self.worker_monitor:
            if database_works:
                yield from workers.examine(report["workers"], self.worker_monitor)
            else:
                yield warn("fleet: the workers were not examined, because that needs the database", FIX_DATABASE)
        yield from mail.examine(self.config)
        yield from certificates.examine(self.config, self.redis, self.sentinels, urls)
        yield from self._visit([Site(url) for url in urls], live, stores_work=redis_answers and database_works)

    def _reach_redis(self) -> Generator[Finding, None, bool]:
        if self.redis is None:
            return True
        where = redises.address(self.config)
        if self.sentinels:
            return (yield from sentinel.examine(self.sentinels)) and (yield from redises.reach(self.redis, where))
        try:
            for host, _ in redises.servers(self.config):
                within(redises.TIMEOUT_SECONDS, partial(redises.look_up, host))
        except Unreachable as error:
            yield fail(f"redis does not answer: {where}: {error}", redises.CHECK_ADDRESS)
            return False
        return (yield from redises.reach(self.redis, where))

    def _report(self) -> Report | None:
        try:
            return self.fleet_report() if self.fleet_report else None
        except Unavailable:
            return None

    def _visit(self, sites: Sequence[Site], live: Sequence[str], *, stores_work: bool) -> Findings:
        reachable = []
        for site in sites:
            if (yield from reach(site, live)):
                reachable.append(site)
                yield from proxy.examine(site, self.config.is_production)
        names = sorted(set[str]().union(*(site.instances for site in reachable)))
        if len(names) > 1 and not self.config.use_redis_sessions:
            yield fail(
                f"configuration: several instances answer ({', '.join(names)}),"
                " but this process is in embedded mode, which has one",
                "Run the doctor with the environment of the instances; if it already has it, they need USE_REDIS_SESSIONS=true",
            )
        if reachable and stores_work:
            try:
                with self._test_client() as client:
                    yield from self._sign_in(reachable, client)
            except Unavailable as unavailable:
                yield fail(f"sessions: the examination was aborted: {unavailable.detail}", "See the findings about the database")
        elif reachable:
            yield warn(
                "sessions were not examined, nor messages and the client address, because that needs Redis and the database",
                "Fix the findings about those first, then run the doctor again",
            )

    def _sign_in(self, sites: Sequence[Site], client: TestClient) -> Findings:
        sessions: list[SignedInSession] = []
        forged: list[SignedInSession] = []
        try:
            for site in sites:
                try:
                    sessions.append(client.sign_in(site))
                    forged.append(client.sign_in(site, X_Forwarded_For=FORGED_ADDRESS))
                except SignInRefused as failure:
                    yield failure.finding
            if not sessions:
                return
            yield from sessions_are_shared(sessions, self.sessions)
            for plain, with_forged in ((one, two) for one in sessions for two in forged if one.site is two.site):
                yield from proxy.client_address(plain, with_forged, self.config.trusted_proxies)
            yield from messages.examine(
                sessions, self.config.socket_transports, lambda: self._notify(client), pushed=self.redis is not None
            )
        finally:
            for session in [*sessions, *forged]:
                with suppress(Unreachable):
                    session.end()

    def _notify(self, client: TestClient) -> int:
        return self.notifications.send(client.user_id, "message", "From the doctor", {}).seq

    @contextmanager
    def _test_client(self) -> Iterator[TestClient]:
        """Create an account and delete it at the end of the block, also after an error."""
        email, password = f"doctor-{secrets.token_hex(8)}@doctor.invalid", secrets.token_urlsafe(24)
        for user_id in self.database.run(store.abandoned_accounts, ABANDONED_AFTER_SECONDS):
            self.accounts.delete_without_password(user_id)
        user = self.accounts.add_without_limit(email, password)
        try:
            yield TestClient(user.id, email, password)
        finally:
            with suppress(Unavailable):  # sessions that could not be ended over HTTP
                self.sessions.destroy_all(user.id, keep=None)
            self.accounts.delete_without_password(user.id)


def examine_without_configuration(faults: Sequence[str], urls: Sequence[str]) -> Findings:
    """Report the faults and run the checks that need no settings."""
    yield from configuration.faults(faults)
    yield from certificates.examine_sites(urls)
    for site in map(Site, urls):
        if (yield from reach(site, [])):
            yield from proxy.examine(site, production=False)
    yield warn(
        "doctor: Redis, the database, the fleet and sessions were not examined",
        "Fix the configuration, then run the doctor again",
    )
