"""The cost of listing, counting, catching up and adding for a user with many notifications."""

from sqlalchemy import Connection, text

from app.database.engine import Database
from bench.growth.fleet import MeasuredFleet, fleet, load, spent
from bench.growth.series import Line, Panel, Series
from harness.servers import Instance, flask
from harness.sockets import TEXT, WebSocket
from harness.users import User

SIZES = (100, 1_000, 10_000, 100_000)
ROUNDS = 3
SECONDS = 1.0
CONNECTIONS = 8  # more would wait too long for one of the five database connections
MORE = 200
PAGE = 100

FILL = [
    text("""
        INSERT INTO notifications (user_id, seq, type, title, data, created_at)
        SELECT :user, seq, 'analysis.finished', 'The analysis of example has finished', '{"repository_id": 1}', now()
        FROM generate_series(1, :count) AS seq
    """),
    text("INSERT INTO inboxes (user_id, head, read_up_to) VALUES (:user, :count, :count / 2)"),
]


def measure() -> Series:
    addresses = {
        "first page": "/api/notifications?after=0",
        "last page": "/api/notifications?after={last}",
        "empty page": "/api/notifications?after={head}",
        "web page, with the count": "/notifications",
    }
    reading = {name: Line(name) for name in addresses}
    catching_up, one_more = Line("catching up, each"), Line("one more")
    with fleet() as servers:
        instance = servers.start()
        users = {size: with_notifications(servers, instance, size) for size in SIZES}
        for _ in range(ROUNDS):  # all sizes in each round, because the machine's speed varies over time
            for size, user in users.items():
                for name, path in addresses.items():
                    cost = _read(servers, instance, user, path.format(last=size - PAGE, head=size))
                    reading[name].add(size, cost)
                catching_up.add(size, _catch_up(servers, instance, user, size))
                one_more.add(size, _one_more(servers, instance, user))
    return Series(
        "notifications of a user",
        [
            Panel("reading", "us of CPU, database included", list(reading.values())),
            Panel("delivery", "us of CPU, database included", [catching_up, one_more]),
        ],
    )


def with_notifications(servers: MeasuredFleet, instance: Instance, count: int) -> User:
    user = User(instance).register()
    user_id = user.get("/api/auth/me").json()["user"]["id"]

    def fill(connection: Connection) -> None:
        for statement in FILL:
            connection.execute(statement, {"user": user_id, "count": count})

    database = Database(servers.environment["DATABASE_URL"].replace("postgresql:", "postgresql+psycopg2:"), 1, "bench")
    database.run_within(60, fill)
    with database.engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("VACUUM ANALYZE notifications"))  # PostgreSQL's autovacuum would do it later
    database.close()
    return user


def _read(servers: MeasuredFleet, instance: Instance, user: User, path: str) -> float:
    with spent(instance.pid, servers.postgres.pid) as cpu:
        count = load(instance, path, user.cookie_header, SECONDS, CONNECTIONS)
    return sum(cpu) * 1e6 / count


def _catch_up(servers: MeasuredFleet, instance: Instance, user: User, size: int) -> float:
    """Measure a client that has none of the notifications."""
    with spent(instance.pid, servers.postgres.pid) as cpu, WebSocket(instance, user) as websocket:
        websocket.send(TEXT, b'40{"after":0}')
        websocket.await_text('42["ready"')
    return sum(cpu) * 1e6 / size


def _one_more(servers: MeasuredFleet, instance: Instance, user: User) -> float:
    """Measure a notification that another process stores and that is delivered to a socket."""
    with WebSocket(instance, user).join() as websocket, spent(instance.pid, servers.postgres.pid) as cpu:
        flask(servers.environment, "notify", user.email, "The analysis of example has finished", "--count", str(MORE))
        for _ in range(MORE):
            websocket.await_text('42["notification"')
    return sum(cpu) * 1e6 / MORE
