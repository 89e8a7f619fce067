"""The arithmetic of docs/capacity.md: what stores and instances carry, and where the first wall is, from what was measured.

After new measurements: change FIGURES, then `.venv/bin/python -m bench.capacity` writes the page's tables anew.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.servers import ROOT

NOBODY_HAS = 1e9  # so many users
PAGE = ROOT / "docs" / "capacity.md"


@dataclass(frozen=True)
class Figure:
    value: float
    unit: str
    what: str
    source: str


SESSIONS, SOCKETS, INSTANCES, COMMITS, EVENTS = (
    f"growth: {name}" for name in ("sessions", "sockets", "instances", "commits", "events")
)
FIGURES = {
    "request": Figure(850, "us", "request of a signed-in user, looked up in SQL: CPU of the instance", INSTANCES),
    "request_redis": Figure(22, "us", "– of Redis, about one command", INSTANCES),
    "request_postgres": Figure(135, "us", "– of PostgreSQL", INSTANCES),
    "session": Figure(2030, "bytes", "session: memory of Redis, with the list of its user", SESSIONS),
    "connect": Figure(3.5, "ms", "socket that is opened: CPU of the instance", SOCKETS),
    "socket": Figure(6.1, "kB", "socket: memory of the instance", SOCKETS),
    "socket_idle": Figure(16, "us/s", "– CPU of the instance while it is idle", SOCKETS),
    "socket_redis": Figure(0.2, "us/s", "– of Redis", SOCKETS),
    "socket_postgres": Figure(1, "us/s", "– of PostgreSQL", SOCKETS),
    "message": Figure(115, "us", "message to a user: CPU of the instance that has the socket", INSTANCES),
    "message_elsewhere": Figure(0, "us", "– of each other instance", INSTANCES),
    "message_redis": Figure(50, "us", "– of Redis", INSTANCES),
    "message_postgres": Figure(340, "us", "– of PostgreSQL, where it is stored first", INSTANCES),
    "event_worker": Figure(165, "us", "event that is stored: CPU of a worker", EVENTS),
    "event_postgres": Figure(28, "us", "– of PostgreSQL", EVENTS),
    "event_bytes": Figure(500, "bytes", "– disk of PostgreSQL, with indexes and what is counted of it", EVENTS),
    "analysis": Figure(10, "s", "analysis of 100,000 commits: CPU of a worker", COMMITS),
    "instance_idle": Figure(10, "ms/s", "instance that does nothing: its CPU", INSTANCES),
    "instance_redis": Figure(1.8, "ms/s", "– of Redis", INSTANCES),
    "heartbeat_peer": Figure(5.9, "us", "heartbeat, one a second: CPU of Redis for each other instance", INSTANCES),
}


@dataclass(frozen=True)
class Machine:
    """What there is of each, and how much of it may be in use."""

    share: float = 0.7  # of a processor: beyond it, waiting grows faster than load
    instance_gb: float = 1.0  # memory for sockets
    max_sockets: int = 2000
    redis_gb: float = 12.0  # of a Redis with 16
    postgres_cores: int = 8
    postgres_connections: int = 97  # max_connections of 100, without those of superusers
    postgres_gb: float = 1000.0
    pool: int = 5


MACHINE = Machine()


@dataclass(frozen=True)
class People:
    """What so many users do in a busy hour."""

    users: float
    active: float = 0.1  # share
    seconds_between_requests: float = 20.0  # of one who is active
    sockets: float = 1.2
    sessions: float = 2.0  # that a user has, active or not
    messages_an_hour: float = 2.0  # to a user, active or not
    events_a_minute: float = 1.0
    days_kept: int = 365
    busy: float = 4.0  # times the mean

    @property
    def requests(self) -> float:
        """A second; so are messages and events."""
        return self.users * self.active / self.seconds_between_requests

    @property
    def messages(self) -> float:
        return self.users * self.messages_an_hour / 3600

    @property
    def events(self) -> float:
        return self.users * self.active * self.events_a_minute / 60

    @property
    def open_sockets(self) -> float:
        return self.users * self.active * self.sockets

    @property
    def stored_events(self) -> float:
        return self.events / self.busy * 86_400 * self.days_kept


def figure(name: str) -> float:
    """CPU in seconds, memory in bytes."""
    found = FIGURES[name]
    return found.value * {"us": 1e-6, "us/s": 1e-6, "ms": 1e-3, "ms/s": 1e-3, "s": 1.0, "bytes": 1.0, "kB": 1e3}[found.unit]


# What so many people need.


def instances(people: People) -> float:
    """Infinite where all of them would have nothing to do but hear of each other's messages."""
    here, elsewhere = figure("message"), figure("message_elsewhere")
    work = people.requests * figure("request") + people.open_sockets * figure("socket_idle")
    left = MACHINE.share - figure("instance_idle") - people.messages * elsewhere
    if left <= 0:
        return math.inf
    by_processor = (work + people.messages * (here - elsewhere)) / left
    by_memory = people.open_sockets * figure("socket") / (MACHINE.instance_gb * 1e9)
    return math.ceil(max(1.0, by_processor, by_memory, people.open_sockets / MACHINE.max_sockets))


def redis_cores(people: People) -> float:
    count = instances(people)
    asked = people.requests * figure("request_redis") + people.messages * figure("message_redis")
    waiting = people.open_sockets * figure("socket_redis") + count * figure("instance_redis")
    return asked + waiting + count**2 * figure("heartbeat_peer")


def redis_gb(people: People) -> float:
    return people.users * people.sessions * figure("session") / 1e9


def postgres_cores(people: People) -> float:
    asked = people.requests * figure("request_postgres") + people.messages * figure("message_postgres")
    return asked + people.open_sockets * figure("socket_postgres") + people.events * figure("event_postgres")


def workers(people: People) -> float:
    """Processes that store events, of a processor each; analyses come on top."""
    return math.ceil(people.events * figure("event_worker") / MACHINE.share)


def connections(people: People) -> float:
    return (instances(people) + workers(people)) * MACHINE.pool


def postgres_gb(people: People) -> float:
    return people.stored_events * figure("event_bytes") / 1e9


@dataclass(frozen=True)
class Wall:
    what: str
    needed: Callable[[People], float]
    limit: float
    way_on: str

    @property
    def users(self) -> float:
        """The most that it carries."""
        least, most = 1.0, 2 * NOBODY_HAS
        while most / least > 1.001:
            middle = math.sqrt(least * most)
            least, most = (middle, most) if self.needed(People(middle)) <= self.limit else (least, middle)
        return least


def walls() -> list[Wall]:
    found = [
        Wall("connections to PostgreSQL", connections, MACHINE.postgres_connections, "[more connections](#connections)"),
        Wall("messages, which every instance hears", _heard, MACHINE.share / 2, "[fewer who hear them](#messages)"),
        Wall("processor of Redis", redis_cores, MACHINE.share, "[a quicker Redis](#redis)"),
        Wall("memory of Redis for sessions", redis_gb, MACHINE.redis_gb, "[smaller records](#sessions)"),
        Wall("processors of PostgreSQL", postgres_cores, MACHINE.share * MACHINE.postgres_cores, "[PostgreSQL](#postgresql)"),
        Wall("disk of PostgreSQL for events", postgres_gb, MACHINE.postgres_gb, "[stored events](#stored-events)"),
    ]
    return sorted((wall for wall in found if wall.users < NOBODY_HAS), key=lambda wall: wall.users)


def _heard(people: People) -> float:
    """Of the processor of each instance."""
    return people.messages * figure("message_elsewhere")


# The page.


def figures_table() -> Iterator[str]:
    yield "| figure | | from |\n|---|---:|---|"
    for found in FIGURES.values():
        yield f"| {found.what} | {found.value:,g} {found.unit} | {found.source} |"


def carried_table() -> Iterator[str]:
    share = MACHINE.share
    instance, postgres = share - figure("instance_idle"), share * MACHINE.postgres_cores
    yield f"| one of these | carries, at {share:.0%} of its processor | |\n|---|---|---:|"
    yield _row("instance, a core", "requests a second", instance, "request")
    yield _row("", "sockets opened a second", instance, "connect")
    yield _row("", "idle sockets, by its processor", instance, "socket_idle")
    yield _row("", f"sockets, by {MACHINE.instance_gb:g} GB of memory for them", MACHINE.instance_gb * 1e9, "socket")
    yield _row("", "messages a second in the whole fleet, by hearing them", instance, "message_elsewhere")
    yield _row("Redis, a core", "requests a second", share, "request_redis")
    yield _row("", "messages a second", share, "message_redis")
    yield _row("", "idle sockets", share, "socket_redis")
    yield f"| | instances, by their heartbeats | {_told(_most_instances())} |"
    yield _row("", f"sessions in {MACHINE.redis_gb:g} GB", MACHINE.redis_gb * 1e9, "session")
    yield _row(f"PostgreSQL, {MACHINE.postgres_cores} cores", "requests a second", postgres, "request_postgres")
    yield _row("", "notifications a second", postgres, "message_postgres")
    yield _row("", "events a second", postgres, "event_postgres")
    yield _row("", f"stored events in {MACHINE.postgres_gb:,g} GB", MACHINE.postgres_gb * 1e9, "event_bytes")
    processes = MACHINE.postgres_connections // MACHINE.pool
    yield f"| | instances and workers, by {MACHINE.postgres_connections} connections | {processes} |"
    yield _row("worker, a core", "events a second", share, "event_worker")
    yield _row("", "analyses of 100,000 commits an hour", share * 3600, "analysis")


def _most_instances() -> float:
    """Each is heard by each: n of them take n heartbeats with n entries to compare."""
    own, peer = figure("instance_redis"), figure("heartbeat_peer")
    return (-own + math.sqrt(own**2 + 4 * peer * MACHINE.share)) / (2 * peer)


def assumptions() -> Iterator[str]:
    one, there_is = People(1), MACHINE
    yield f"- In the busiest hour one user in {1 / one.active:.0f} is active, with {one.sockets:g} sockets,"
    yield f"  a request every {one.seconds_between_requests:.0f} s and {one.events_a_minute:g} event of analytics a minute."
    yield f"- That hour has {one.busy:g} times the events of the mean one. They are kept for {one.days_kept} days."
    yield f"- Each user, active or not, has {one.sessions:g} sessions in Redis,"
    yield f"  and gets {one.messages_an_hour:g} notifications in that hour."
    yield f"- Processors are busy to {there_is.share:.0%} at most: beyond it waiting grows faster than load."
    yield f"- An instance has {there_is.instance_gb:g} GB for its sockets, and `MAX_SOCKETS` is {there_is.max_sockets:,}."
    yield f"- Redis has one core for commands and {there_is.redis_gb:g} GB for sessions."
    yield f"- PostgreSQL has {there_is.postgres_cores} cores, {there_is.postgres_gb:,g} GB for events"
    yield f"  and {there_is.postgres_connections} connections; each process takes {there_is.pool} (`DATABASE_POOL_SIZE`)."


EXAMPLES = (1e4, 1e5, 1e6)


def examples_table() -> Iterator[str]:
    asked: dict[str, Callable[[People], float]] = {
        "requests a second": lambda people: people.requests,
        "sockets": lambda people: people.open_sockets,
        "messages a second": lambda people: people.messages,
        "events a second": lambda people: people.events,
        "stored events": lambda people: people.stored_events,
        "**instances**": instances,
        "workers that store events": workers,
        "connections to PostgreSQL": connections,
        "processors of PostgreSQL": postgres_cores,
        "disk of PostgreSQL for events, GB": postgres_gb,
        "processor of Redis": redis_cores,
        "memory of Redis for sessions, GB": redis_gb,
    }
    yield "| users | " + " | ".join(f"{users:,.0f}" for users in EXAMPLES) + " |\n|---" + "|---:" * len(EXAMPLES) + "|"
    for what, needed in asked.items():
        yield f"| {what} | " + " | ".join(_told(needed(People(users))) for users in EXAMPLES) + " |"


def walls_table() -> Iterator[str]:
    yield "| wall | users | then |\n|---|---:|---|"
    for wall in walls():
        yield f"| {wall.what} | {_told(wall.users)} | {wall.way_on} |"


def _row(who: str, what: str, there_is: float, name: str) -> str:
    return f"| {who} | {what} | {_told(there_is / figure(name) if figure(name) else math.inf)} |"


def _told(number: float) -> str:
    """In two figures: more would promise too much."""
    if number == 0 or math.isinf(number):
        return f"{number:g}".replace("inf", "no limit")
    rounded = float(f"{number:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


TABLES = {
    "figures": figures_table,
    "carried": carried_table,
    "assumptions": assumptions,
    "examples": examples_table,
    "walls": walls_table,
}


def filled(page: str) -> str:
    """The page with its tables as they follow from the figures."""
    for name, table in TABLES.items():
        rows = "\n".join(table())
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{begin}{rows}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text()))
