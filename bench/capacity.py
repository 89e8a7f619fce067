"""Computes the tables of docs/capacity.md from measured costs: the capacity of instances and stores, and the bottlenecks.

After new measurements, change FIGURES and run `.venv/bin/python -m bench.capacity` to update the page.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from harness.servers import ROOT

MAX_USERS = 1e9  # a limit beyond it is no bottleneck
PAGE = ROOT / "docs" / "capacity.md"


@dataclass(frozen=True)
class Figure:
    value: float
    unit: str
    what: str
    source: str


SESSIONS, SOCKETS, INSTANCES, HEARTBEATS, COMMITS, EVENTS = (
    f"growth: {name}" for name in ("sessions", "sockets", "instances", "heartbeats", "commits", "events")
)
FIGURES = {
    "request": Figure(850, "us", "request of a signed-in user, with a query for the user: CPU of the instance", INSTANCES),
    "request_redis": Figure(22, "us", "– of Redis, about one command", INSTANCES),
    "request_postgres": Figure(135, "us", "– of PostgreSQL", INSTANCES),
    "session": Figure(2030, "bytes", "session: memory of Redis, including the list of the user's sessions", SESSIONS),
    "connect": Figure(3.5, "ms", "opening a socket: CPU of the instance", SOCKETS),
    "socket": Figure(6.1, "kB", "socket: memory of the instance", SOCKETS),
    "socket_idle": Figure(16, "us/s", "– CPU of the instance while it is idle", SOCKETS),
    "socket_redis": Figure(0.2, "us/s", "– of Redis", SOCKETS),
    "socket_postgres": Figure(1, "us/s", "– of PostgreSQL", SOCKETS),
    "message": Figure(115, "us", "message to a user: CPU of the instance that holds the socket", INSTANCES),
    "message_elsewhere": Figure(0, "us", "– of each other instance", INSTANCES),
    "message_redis": Figure(50, "us", "– of Redis", INSTANCES),
    "message_postgres": Figure(340, "us", "– of PostgreSQL, which stores it first", INSTANCES),
    "event_worker": Figure(165, "us", "storing an event: CPU of a worker", EVENTS),
    "event_postgres": Figure(28, "us", "– of PostgreSQL", EVENTS),
    "event_bytes": Figure(500, "bytes", "– disk of PostgreSQL, with indexes and rollups", EVENTS),
    "analysis": Figure(2.8, "s", "analysis of 100,000 commits: CPU of a worker", COMMITS),
    "instance_idle": Figure(10, "ms/s", "idle instance: its CPU", INSTANCES),
    "instance_redis": Figure(0.6, "ms/s", "– of Redis, for each further instance", INSTANCES),
    "instance_postgres": Figure(2.1, "ms/s", "– of PostgreSQL", INSTANCES),
    "heartbeat": Figure(140, "us", "heartbeat, one a second: CPU of Redis, a part of the above", HEARTBEATS),
}


@dataclass(frozen=True)
class Machine:
    """The available resources, and how much of them may be used."""

    share: float = 0.7  # CPU utilisation: above it, waiting times grow faster than load
    instance_gb: float = 1.0  # memory for sockets
    max_sockets: int = 2000
    redis_gb: float = 12.0  # of a Redis with 16
    postgres_cores: int = 8
    postgres_connections: int = 97  # max_connections of 100, without those of superusers
    postgres_gb: float = 1000.0
    pool: int = 5


MACHINE = Machine()


@dataclass(frozen=True)
class UserLoad:
    """The load of `users` users in a busy hour."""

    users: float
    active: float = 0.1  # share
    seconds_between_requests: float = 20.0  # of an active user
    sockets: float = 1.2
    sessions: float = 2.0  # per user, active or not
    messages_an_hour: float = 2.0  # per user, active or not
    events_a_minute: float = 1.0
    retention_days: int = 365
    peak_factor: float = 4.0  # times the mean

    @property
    def requests(self) -> float:
        """Return requests per second; `messages` and `events` are per second too."""
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
        return self.events / self.peak_factor * 86_400 * self.retention_days


def figure(name: str) -> float:
    """Return CPU time in seconds, or memory in bytes."""
    found = FIGURES[name]
    return found.value * {"us": 1e-6, "us/s": 1e-6, "ms": 1e-3, "ms/s": 1e-3, "s": 1.0, "bytes": 1.0, "kB": 1e3}[found.unit]


# Resources that a load needs.


def instances(load: UserLoad) -> float:
    """Return infinity if receiving each other's messages would use the whole capacity of the instances."""
    here, elsewhere = figure("message"), figure("message_elsewhere")
    work = load.requests * figure("request") + load.open_sockets * figure("socket_idle")
    available = MACHINE.share - figure("instance_idle") - load.messages * elsewhere
    if available <= 0:
        return math.inf
    by_processor = (work + load.messages * (here - elsewhere)) / available
    by_memory = load.open_sockets * figure("socket") / (MACHINE.instance_gb * 1e9)
    return math.ceil(max(1.0, by_processor, by_memory, load.open_sockets / MACHINE.max_sockets))


def redis_cores(load: UserLoad) -> float:
    requests = load.requests * figure("request_redis") + load.messages * figure("message_redis")
    idle = load.open_sockets * figure("socket_redis") + instances(load) * figure("instance_redis")
    return requests + idle


def redis_gb(load: UserLoad) -> float:
    return load.users * load.sessions * figure("session") / 1e9


def postgres_cores(load: UserLoad) -> float:
    requests = load.requests * figure("request_postgres") + load.messages * figure("message_postgres")
    idle = load.open_sockets * figure("socket_postgres") + instances(load) * figure("instance_postgres")
    return requests + idle + load.events * figure("event_postgres")


def workers(load: UserLoad) -> float:
    """Return the number of workers, of one CPU each, that store events. Analyses need further ones."""
    return math.ceil(load.events * figure("event_worker") / MACHINE.share)


def connections(load: UserLoad) -> float:
    return (instances(load) + workers(load)) * MACHINE.pool


def postgres_gb(load: UserLoad) -> float:
    return load.stored_events * figure("event_bytes") / 1e9


@dataclass(frozen=True)
class Bottleneck:
    what: str
    needed: Callable[[UserLoad], float]
    limit: float
    remedy: str

    @property
    def users(self) -> float:
        """Return the largest number of users that the resource allows."""
        least, most = 1.0, 2 * MAX_USERS
        while most / least > 1.001:
            middle = math.sqrt(least * most)
            least, most = (middle, most) if self.needed(UserLoad(middle)) <= self.limit else (least, middle)
        return least


def bottlenecks() -> list[Bottleneck]:
    found = [
        Bottleneck("connections to PostgreSQL", connections, MACHINE.postgres_connections, "[more connections](#connections)"),
        Bottleneck("messages that every instance receives", _foreign_messages, MACHINE.share / 2, "[fewer receivers](#messages)"),
        Bottleneck("processor of Redis", redis_cores, MACHINE.share, "[a quicker Redis](#redis)"),
        Bottleneck("memory of Redis for sessions", redis_gb, MACHINE.redis_gb, "[smaller records](#sessions)"),
        Bottleneck(
            "processors of PostgreSQL", postgres_cores, MACHINE.share * MACHINE.postgres_cores, "[PostgreSQL](#postgresql)"
        ),
        Bottleneck("disk of PostgreSQL for events", postgres_gb, MACHINE.postgres_gb, "[stored events](#stored-events)"),
    ]
    return sorted((one for one in found if one.users < MAX_USERS), key=lambda one: one.users)


def _foreign_messages(load: UserLoad) -> float:
    """Return the CPU share of each instance for messages of others."""
    return load.messages * figure("message_elsewhere")


# The page.


def figures_table() -> Iterator[str]:
    yield "| figure | | from |\n|---|---:|---|"
    for found in FIGURES.values():
        yield f"| {found.what} | {found.value:,g} {found.unit} | {found.source} |"


def capacity_table() -> Iterator[str]:
    share = MACHINE.share
    instance, postgres = share - figure("instance_idle"), share * MACHINE.postgres_cores
    yield f"| component | capacity at {share:.0%} CPU | |\n|---|---|---:|"
    yield _row("instance, a core", "requests a second", instance, "request")
    yield _row("", "sockets opened a second", instance, "connect")
    yield _row("", "idle sockets, limited by CPU", instance, "socket_idle")
    yield _row("", f"sockets, limited by {MACHINE.instance_gb:g} GB of memory", MACHINE.instance_gb * 1e9, "socket")
    yield _row("", "messages a second in the whole fleet, limited by receiving them", instance, "message_elsewhere")
    yield _row("Redis, a core", "requests a second", share, "request_redis")
    yield _row("", "messages a second", share, "message_redis")
    yield _row("", "idle sockets", share, "socket_redis")
    yield _row("", "idle instances", share, "instance_redis")
    yield _row("", "heartbeats a second", share, "heartbeat")
    yield _row("", f"sessions in {MACHINE.redis_gb:g} GB", MACHINE.redis_gb * 1e9, "session")
    yield _row(f"PostgreSQL, {MACHINE.postgres_cores} cores", "requests a second", postgres, "request_postgres")
    yield _row("", "idle instances", postgres, "instance_postgres")
    yield _row("", "notifications a second", postgres, "message_postgres")
    yield _row("", "events a second", postgres, "event_postgres")
    yield _row("", f"stored events in {MACHINE.postgres_gb:,g} GB", MACHINE.postgres_gb * 1e9, "event_bytes")
    processes = MACHINE.postgres_connections // MACHINE.pool
    yield f"| | instances and workers, limited by {MACHINE.postgres_connections} connections | {processes} |"
    yield _row("worker, a core", "events a second", share, "event_worker")
    yield _row("", "analyses of 100,000 commits an hour", share * 3600, "analysis")


def assumptions() -> Iterator[str]:
    one, machine = UserLoad(1), MACHINE
    yield f"- In the busiest hour one user in {1 / one.active:.0f} is active, with {one.sockets:g} sockets,"
    yield f"  a request every {one.seconds_between_requests:.0f} s and {one.events_a_minute:g} analytics event a minute."
    yield f"- This hour has {one.peak_factor:g} times the events of an average hour; they are kept for {one.retention_days} days."
    yield f"- Each user, active or not, has {one.sessions:g} sessions in Redis,"
    yield f"  and receives {one.messages_an_hour:g} notifications in that hour."
    yield f"- CPU utilisation is at most {machine.share:.0%}: above it, waiting times grow faster than load."
    yield f"- An instance has {machine.instance_gb:g} GB for its sockets, and `MAX_SOCKETS` is {machine.max_sockets:,}."
    yield f"- Redis has one core for commands and {machine.redis_gb:g} GB for sessions."
    yield f"- PostgreSQL has {machine.postgres_cores} cores, {machine.postgres_gb:,g} GB for events"
    yield f"  and {machine.postgres_connections} connections; each process uses {machine.pool} (`DATABASE_POOL_SIZE`)."


EXAMPLES = (1e4, 1e5, 1e6)


def examples_table() -> Iterator[str]:
    rows: dict[str, Callable[[UserLoad], float]] = {
        "requests a second": lambda load: load.requests,
        "sockets": lambda load: load.open_sockets,
        "messages a second": lambda load: load.messages,
        "events a second": lambda load: load.events,
        "stored events": lambda load: load.stored_events,
        "**instances**": instances,
        "workers that store events": workers,
        "connections to PostgreSQL": connections,
        "processors of PostgreSQL": postgres_cores,
        "disk of PostgreSQL for events, GB": postgres_gb,
        "processor of Redis": redis_cores,
        "memory of Redis for sessions, GB": redis_gb,
    }
    yield "| users | " + " | ".join(f"{users:,.0f}" for users in EXAMPLES) + " |\n|---" + "|---:" * len(EXAMPLES) + "|"
    for what, needed in rows.items():
        yield f"| {what} | " + " | ".join(_rounded(needed(UserLoad(users))) for users in EXAMPLES) + " |"


def bottlenecks_table() -> Iterator[str]:
    yield "| bottleneck | users | remedy |\n|---|---:|---|"
    for one in bottlenecks():
        yield f"| {one.what} | {_rounded(one.users)} | {one.remedy} |"


def _row(component: str, what: str, available: float, name: str) -> str:
    return f"| {component} | {what} | {_rounded(available / figure(name) if figure(name) else math.inf)} |"


def _rounded(number: float) -> str:
    """Return two significant digits; the figures are not more precise."""
    if number == 0 or math.isinf(number):
        return f"{number:g}".replace("inf", "no limit")
    rounded = float(f"{number:.2g}")
    return f"{rounded:,.0f}" if rounded >= 10 else f"{rounded:g}"


TABLES = {
    "figures": figures_table,
    "capacity": capacity_table,
    "assumptions": assumptions,
    "examples": examples_table,
    "bottlenecks": bottlenecks_table,
}


def update_tables(page: str) -> str:
    """Return the page with its tables computed from the figures."""
    for name, table in TABLES.items():
        rows = "\n".join(table())
        before, begin, rest = page.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        page = f"{before}{begin}{rows}\n{end}{after}"
    return page


if __name__ == "__main__":
    PAGE.write_text(update_tables(PAGE.read_text()))
