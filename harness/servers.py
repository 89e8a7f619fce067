"""Servers that tests start on free loopback ports, with data in new folders that are removed afterwards.

with RedisServer() as redis, PostgresServer() as postgres:
    environment = fleet_environment(redis.url, postgres.create_database())
    with Instance(environment) as one, Instance(environment) as two, Worker(environment):
        ...
"""

import ast
import itertools
import os
import pwd
import re
import secrets
import shlex
import shutil
import signal
import socket
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, Self

import httpx
import psycopg2
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from app.auth import store as accounts
from harness import web
from harness.processes import PATIENCE_SECONDS, Process, free_port, run, wait_until
from harness.schema import migrate_database, open_database, upgrade_database

__all__ = [
    "Command",
    "Instance",
    "PostgresServer",
    "RedisServer",
    "ReusableDatabase",
    "Worker",
    "embedded_environment",
    "fleet_environment",
    "folder_open_to_all",
    "free_port",
    "migrate",
    "procfile_command",
    "release",
    "wait_until",
]

ROOT = Path(__file__).parents[1]
PROGRAMS = Path(sys.prefix, "bin")
LOG_TAIL_CHARACTERS = 6_000


def base_environment() -> dict[str, str]:
    """Return the variables that a process inherits: none of them configures the application."""
    inherited = {name: os.environ[name] for name in ("HOME", "LANG") if name in os.environ}
    return inherited | {"PATH": f"{PROGRAMS}:{os.environ['PATH']}"}


class Server:
    """A program that keeps its port and its folder through restarts, until it is closed."""

    stop_signal = signal.SIGTERM
    user: str | None = None

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = self._create_folder()
        self._started: Process | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    @property
    def pid(self) -> int:
        return self._process.pid

    def start(self, wait_ready: bool = True) -> None:
        self._started = Process(
            self._command(),
            environment=self._environment(),
            directory=self._working_directory(),
            folder=self.folder,
            user=self.user,
        )
        if wait_ready:
            self.wait_ready()

    def wait_ready(self, timeout: float = PATIENCE_SECONDS) -> None:
        try:
            wait_until(self._is_ready, timeout, f"{type(self).__name__} to be ready")
        except AssertionError as error:
            raise AssertionError(f"{error}\n{self.log()[-LOG_TAIL_CHARACTERS:]}") from None

    def send(self, number: signal.Signals) -> None:
        self._process.send(number)

    def status(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the server runs."""
        return self._process.status()

    def wait(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Wait for the end and return the exit status, negative for a signal."""
        return self._process.wait(timeout)

    def stop(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Send the stop signal, wait, and return the exit status."""
        self.send(self.stop_signal)
        return self.wait(timeout)

    def kill(self) -> None:
        """Send SIGKILL to the server and its descendants."""
        self._process.kill()

    def restart(self) -> None:
        self.stop()
        self.start()

    def freeze(self) -> None:
        """Stop the server with SIGSTOP, as if its machine stalled or the network were partitioned. Connections stay open."""
        self._process.freeze()

    def resume(self) -> None:
        self._process.resume()

    @contextmanager
    def lost(self, fault: str = "kill") -> Iterator[None]:
        """Kill or freeze the server during the block. Afterwards it runs again, also if the block fails: others may share it.

        `fault`: `kill` or `freeze`.
        """
        self.freeze() if fault == "freeze" else self.kill()
        try:
            yield
        finally:
            self.resume() if fault == "freeze" else self.start()

    def log(self) -> str:
        """Return the output of all starts of this server."""
        return (self.folder / "log").read_text(errors="replace")

    def close(self) -> None:
        if self._started:
            self._started.kill()
        shutil.rmtree(self.folder)

    @property
    def _process(self) -> Process:
        if self._started is None:
            raise AssertionError(f"{type(self).__name__} has not been started")
        return self._started

    def _is_ready(self) -> bool:
        status = self._process.status()
        if status is not None:
            raise AssertionError(f"{type(self).__name__} ended with status {status} instead of becoming ready")
        return self._answers()

    def _create_folder(self) -> Path:
        if self.user is None:
            return Path(tempfile.mkdtemp(prefix="reporadar-"))
        account = pwd.getpwnam(self.user)
        folder = Path(tempfile.mkdtemp(prefix="reporadar-", dir=folder_open_to_all()))
        os.chown(folder, account.pw_uid, account.pw_gid)
        return folder

    def _working_directory(self) -> Path:
        return self.folder

    def _environment(self) -> dict[str, str]:
        return base_environment()

    def _command(self) -> list[str]:
        raise NotImplementedError

    def _answers(self) -> bool:
        raise NotImplementedError


class ServerGroup:
    """Servers that `with` starts and stops together. `_start` leaves each of them to `_stack`."""

    def __init__(self) -> None:
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with self._stack:
            self._start()
            self._stack = self._stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self) -> None:
        raise NotImplementedError


class Command(NamedTuple):
    """A command that Redis executed."""

    text: str
    client: str  # its address, or "lua" for what a script called
    name: str  # the client's name, if it has set one and is still connected


class RedisServer(Server):
    def __init__(self, password: str | None = None) -> None:
        super().__init__()
        self.password = password
        login = f":{password}@" if password else ""
        self.url = f"redis://{login}127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        """Return a client for a `with` block. It does not retry, because a test wants to see the first failure."""
        return redis.Redis.from_url(
            self.url,
            decode_responses=True,
            single_connection_client=True,
            socket_timeout=20,
            retry=Retry(NoBackoff(), 0),
        )

    def flush(self) -> None:
        with self.client() as client:
            client.flushall()

    def dump(self) -> bytes:
        """Return every byte that Redis stores now or ever wrote to its append-only file."""
        with self.client() as client:
            client.save()
        files = [self.folder / "dump.rdb", *sorted(self.folder.glob("appendonlydir/*"))]
        return b"".join(file.read_bytes() for file in files)

    @contextmanager
    def commands(self) -> Iterator[list[Command]]:
        """Record the commands that are executed during the block. The list grows meanwhile and is complete afterwards."""
        commands: list[Command] = []
        marker = secrets.token_hex()
        with socket.create_connection(("127.0.0.1", self.port)) as connection, connection.makefile("rb") as lines:
            self._start_monitor(connection, lines)
            reader = threading.Thread(target=_collect, args=(lines, marker, commands))
            reader.start()
            try:
                yield commands
                with self.client() as client:
                    own, names = client.client_info()["addr"], _client_names(client)
                    client.echo(marker)
                reader.join(PATIENCE_SECONDS)
                if reader.is_alive():
                    raise AssertionError("Redis didn't show all commands")
            finally:
                with suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
                reader.join()
        commands[:] = [command._replace(name=names.get(command.client, "")) for command in commands if command.client != own]

    def _start_monitor(self, connection: socket.socket, lines: BinaryIO) -> None:
        login = [f'AUTH "{self.password}"'] if self.password else []
        for command in [*login, "MONITOR"]:
            connection.sendall(f"{command}\r\n".encode())
            answer = lines.readline()
            if answer != b"+OK\r\n":
                raise AssertionError(f"Redis answered {answer!r}")

    def _command(self) -> list[str]:
        options = {
            "bind": "127.0.0.1",
            "port": str(self.port),
            "dir": str(self.folder),
            "save": "",
            "appendonly": "yes",
            # With "everysec" a write may wait for the one before to reach the disk, and SIGKILL lose what was acknowledged.
            "appendfsync": "no",
            # So that dump() can be searched, and for everything that was ever written.
            "rdbcompression": "no",
            "auto-aof-rewrite-percentage": "0",
        }
        if self.password:
            options["requirepass"] = self.password
        return ["redis-server", *itertools.chain.from_iterable((f"--{name}", value) for name, value in options.items())]

    def _answers(self) -> bool:
        try:
            with self.client() as client:
                return bool(client.ping())
        except redis.ConnectionError:
            return False


_MONITOR_LINE = re.compile(rb"\+[\d.]+ \[\d+ (\S+)\] (.*)\r\n")
_MONITOR_WORD = re.compile(rb'"(?:[^"\\]|\\.)*"')


def _collect(lines: BinaryIO, marker: str, commands: list[Command]) -> None:
    """Collect commands until the marker arrives or the connection ends."""
    with suppress(OSError):
        for line in lines:
            if marker.encode() in line:
                return
            commands.append(_parse_monitor_line(line))


def _parse_monitor_line(line: bytes) -> Command:
    match = _MONITOR_LINE.fullmatch(line)
    if match is None:
        raise AssertionError(f"unknown line of MONITOR: {line!r}")
    # Redis quotes like Python: "\x00", "\n", "\\".
    words = [ast.literal_eval(f"b{word.decode()}").decode(errors="backslashreplace") for word in _MONITOR_WORD.findall(match[2])]
    return Command(text=" ".join(words), client=match[1].decode(), name="")


def _client_names(client: "redis.Redis") -> dict[str, str]:
    return {entry["addr"]: entry["name"] for entry in client.client_list()}


class PostgresServer(Server):
    stop_signal = signal.SIGINT  # "fast": doesn't wait for its clients
    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None

    def __init__(self, password: str | None = None, *, max_connections: int = 200, address: str | None = None) -> None:
        """`address`: one that it listens on besides 127.0.0.1."""
        super().__init__()
        self.password = password
        self._max_connections = max_connections
        self._addresses = ["127.0.0.1", *([address] if address else [])]
        self.url = self._url("postgres")
        self._data = self.folder / "data"
        self._numbers = itertools.count(1)
        self._template: str | None = None
        self._template_lock = threading.Lock()

    def start(self, wait_ready: bool = True) -> None:
        if not self._data.exists():
            self._initialise()
        super().start(wait_ready)

    def close(self) -> None:
        try:
            self._leave_no_shared_memory()
        finally:
            super().close()

    def create_database(self) -> str:
        """Create a database with the current schema and no rows; return its URL."""
        with self._template_lock:
            if self._template is None:
                template = self.create_empty_database()
                upgrade_database(template)
                self._template = template.rpartition("/")[2]
        return self._create(f"TEMPLATE {self._template}")

    def create_empty_database(self, options: str = "") -> str:
        """Create a database without a schema, with these options of CREATE DATABASE; return its URL."""
        return self._create(options)

    def _create(self, options: str) -> str:
        name = f"test_{next(self._numbers)}"
        self._execute(f"CREATE DATABASE {name} {options}")
        return self._url(name)

    def drop_database(self, url: str) -> None:
        """Drop a database and close the connections to it."""
        self._execute(f"DROP DATABASE {url.rpartition('/')[2]} WITH (FORCE)")

    def _url(self, database: str) -> str:
        login = f"postgres:{self.password}" if self.password else "postgres"
        return f"postgresql://{login}@127.0.0.1:{self.port}/{database}"

    def scram_secret(self, role: str) -> str:
        """Return what PostgreSQL stores instead of the role's password."""
        [(secret,)] = self._execute("SELECT rolpassword FROM pg_authid WHERE rolname = %s", role)
        return str(secret)

    @contextmanager
    def logged_statements(self, application_name: str) -> Iterator[list[str]]:
        """Yield a list that holds, after the block, every statement of the connections with this application name."""
        found: list[str] = []
        start = f"{application_name} LOG:  statement: "
        self._log_statements("log_line_prefix = '%%a '", "log_statement = 'all'")
        length = len(self.log())
        try:
            yield found
        finally:
            self._log_statements("log_line_prefix TO DEFAULT", "log_statement TO DEFAULT")
        found += [line.removeprefix(start) for line in self.log()[length:].splitlines() if line.startswith(start)]

    def _log_statements(self, *settings: str) -> None:
        for setting in settings:
            self._execute(f"ALTER SYSTEM SET {setting}")
        self._execute("SELECT pg_reload_conf()")

    def backends(self, application_name: str) -> list[int]:
        """Return the process IDs of the connections with this application name."""
        rows = self._execute("SELECT pid FROM pg_stat_activity WHERE application_name = %s", application_name)
        return [pid for (pid,) in rows]

    @contextmanager
    def locked_table(self, url: str, table: str) -> Iterator[None]:
        """Lock a table during the block, as a migration does."""
        with closing(psycopg2.connect(url)) as connection, connection.cursor() as cursor:
            cursor.execute(f"LOCK TABLE {table}")
            yield

    @contextmanager
    def read_only(self, url: str) -> Iterator[None]:
        """Make a database read-only during the block, and close its connections before and after: a primary is demoted."""
        self._set_read_only(url.rpartition("/")[2], "on")
        try:
            yield
        finally:
            self._set_read_only(url.rpartition("/")[2], "off")

    def _set_read_only(self, name: str, value: str) -> None:
        self._execute(f"ALTER DATABASE {name} SET default_transaction_read_only = {value}")  # for new connections
        self._execute("SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = %s", name)

    def _execute(self, statement: str, *parameters: object) -> list[tuple[Any, ...]]:
        with closing(psycopg2.connect(self.url, connect_timeout=20)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(statement, parameters)
                return cursor.fetchall() if cursor.description else []

    def _initialise(self) -> None:
        command = [_postgres_program("initdb"), "--pgdata", str(self._data), "--username", "postgres"]
        command += ["--encoding", "UTF8", "--locale", "C", "--no-sync"]
        if self.password:
            password_file = self.folder / "password"
            password_file.write_text(self.password)
            password_file.chmod(0o644)
            command += ["--auth", "scram-sha-256", "--pwfile", str(password_file)]
        else:
            command += ["--auth", "trust"]
        run(command, environment=self._environment(), directory=self.folder, user=self.user)
        with (self._data / "pg_hba.conf").open("a") as rules:
            rules.writelines(f"host all all {address}/24 trust\n" for address in self._addresses[1:])

    def _leave_no_shared_memory(self) -> None:
        """Stop a killed server in order, because otherwise the kernel would keep its shared memory."""
        if not (self._data / "postmaster.pid").exists():
            return
        if self._process.status() is not None:
            self.start()
        self.resume()
        self.stop()

    def _command(self) -> list[str]:
        options = {
            "listen_addresses": ",".join(self._addresses),
            "port": str(self.port),
            "unix_socket_directories": "",
            "max_connections": str(self._max_connections),
            # Safe: what a commit has written survives SIGKILL, only not the loss of the machine.
            "fsync": "off",
            "full_page_writes": "off",
            # Files in its own folder, which are removed with it, instead of /dev/shm.
            "dynamic_shared_memory_type": "mmap",
        }
        settings = itertools.chain.from_iterable(("-c", f"{name}={value}") for name, value in options.items())
        return [_postgres_program("postgres"), "-D", str(self._data), *settings]

    def _answers(self) -> bool:
        try:
            self._execute("SELECT 1")
        except psycopg2.OperationalError:
            return False
        return True


class ReusableDatabase:
    """A PostgreSQL database that many tests use, one after the other: to empty it is much cheaper than to create another."""

    def __init__(self, url: str) -> None:
        self.url = url
        self._connect()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._connection.close()

    def empty(self) -> None:
        """Close the other connections, delete all rows and restart the sequences."""
        try:
            self._delete_rows()
        except psycopg2.OperationalError:  # a test closed all connections to the database
            self._connect()
            self._delete_rows()

    def _connect(self) -> None:
        self._connection = psycopg2.connect(self.url, connect_timeout=20)
        self._connection.autocommit = True

    def _delete_rows(self) -> None:
        with self._connection.cursor() as cursor:
            cursor.execute(_EMPTY_DATABASE)


# As a replica, PostgreSQL checks no foreign keys, so that the order of the tables does not matter.
_EMPTY_DATABASE = """
DO $$
DECLARE
    name text;
BEGIN
    PERFORM pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid();
    SET LOCAL session_replication_role = replica;
    FOR name IN SELECT quote_ident(tablename) FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version' LOOP
        -- TRUNCATE takes longer than DELETE, unless there were many rows: they would slow down the next tests.
        IF pg_relation_size(name) > 1000000 THEN
            EXECUTE format('TRUNCATE %s CASCADE', name);
        ELSE
            EXECUTE 'DELETE FROM ' || name;
        END IF;
    END LOOP;
    PERFORM setval(quote_ident(sequencename)::regclass, start_value, false) FROM pg_sequences;
END
$$
"""


def _postgres_program(name: str) -> str:
    """Return a program from the folder of initdb, which is not on the PATH in Debian."""
    versions = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: float(path.parts[-3]))
    initdb = shutil.which("initdb") or next(reversed(versions), None)
    if initdb is None:
        raise AssertionError("PostgreSQL is missing: scripts/install-test-servers installs it")
    return str(Path(initdb).resolve().with_name(name))


def folder_open_to_all() -> Path:
    """Return a folder for temporary files that another user can reach; TMPDIR may be private."""
    for folder in map(Path, (tempfile.gettempdir(), "/tmp", "/var/tmp")):
        if all(parent.stat().st_mode & stat.S_IXOTH for parent in (folder, *folder.parents)):
            return folder
    raise AssertionError("no temporary folder that PostgreSQL's user can reach")


class ProcfileProcess(Server):
    """A process of the Procfile with exactly the given environment."""

    line: str

    def __init__(self, environment: Mapping[str, str], directory: Path = ROOT) -> None:
        super().__init__()
        self.environment = dict(environment)
        self._directory = directory

    def terminate(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Send SIGTERM, as an orchestrator does, wait, and return the exit status."""
        return self.stop(timeout)

    def interrupt(self, timeout: float = PATIENCE_SECONDS) -> int:
        """Send SIGINT to the process group, as the terminal does on Ctrl-C, wait, and return the exit status."""
        self._process.send_to_group(signal.SIGINT)
        return self.wait(timeout)

    def worker_pids(self) -> list[int]:
        return self._process.children()

    def _working_directory(self) -> Path:
        return self._directory

    def _environment(self) -> dict[str, str]:
        return base_environment() | self.environment

    def _command(self) -> list[str]:
        return procfile_command(self.line, self._directory)


class Instance(ProcfileProcess):
    line = "web"

    def __init__(self, environment: Mapping[str, str], directory: Path = ROOT, application: str = "wsgi:app") -> None:
        """`application`: the entry point, for example one with a seeded fault instead of the Procfile's."""
        super().__init__(environment, directory)
        self._application = application

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _environment(self) -> dict[str, str]:
        return super()._environment() | {"PORT": str(self.port)}

    def _command(self) -> list[str]:
        return [self._application if word == "wsgi:app" else word for word in super()._command()]

    def _answers(self) -> bool:
        try:
            return web.get(f"{self.url}/health/ready", timeout=2).status_code == httpx.codes.OK
        except httpx.TransportError:
            return False


class Worker(ProcfileProcess):
    line = "worker"

    def __init__(self, environment: Mapping[str, str], directory: Path = ROOT, module: str = "app.worker") -> None:
        """`module`: the module to run, for example one with a seeded fault instead of the Procfile's."""
        super().__init__(environment, directory)
        self._module = module
        self._log_before = 0  # length of the log of earlier starts

    def start(self, wait_ready: bool = True) -> None:
        self._log_before = len(self.log()) if self._started else 0
        super().start(wait_ready)

    def wait_working(self) -> None:
        """Wait until this start is complete: from then on, the worker stops gracefully."""
        wait_until(lambda: "waiting for jobs" in self.log()[self._log_before :], what="the worker to wait for jobs")

    def _command(self) -> list[str]:
        return [self._module if word == "app.worker" else word for word in super()._command()]

    def _answers(self) -> bool:
        """Return True, because a worker has no port to ask: it counts as ready once it is started."""
        return True


def migrate(environment: Mapping[str, str]) -> None:
    """Bring the database to the current schema, without a process of its own."""
    migrate_database(environment["DATABASE_URL"])


def release(environment: Mapping[str, str], directory: Path = ROOT) -> str:
    """Run the Procfile's own command for a release, which migrates the database; return its output."""
    return run(procfile_command("release", directory), environment={**base_environment(), **environment}, directory=directory)


def flask(environment: Mapping[str, str], *arguments: str, directory: Path = ROOT, timeout: float = PATIENCE_SECONDS) -> str:
    """Run a command of the application beside its processes; return its output."""
    program, *_ = procfile_command("release", directory)
    variables = {**base_environment(), **environment}
    return run([program, "--app", "wsgi", *arguments], environment=variables, directory=directory, timeout=timeout)


def promote(environment: Mapping[str, str], email: str) -> None:
    """Make a user an administrator, as `flask users promote` does, without a process of its own."""
    with closing(open_database(environment["DATABASE_URL"])) as database:
        if not database.run(accounts.promote, email):
            raise AssertionError(f"there is no account with the address {email}")


def procfile_command(line: str, directory: Path = ROOT) -> list[str]:
    """Return the command of a Procfile line, with the program from the virtualenv of this interpreter."""
    for entry in (directory / "Procfile").read_text().splitlines():
        name, _, command = entry.partition(":")
        if name == line:
            program, *arguments = shlex.split(command)
            return [shutil.which(program, path=PROGRAMS) or program, *arguments]
    raise AssertionError(f"the Procfile has no line {line!r}")


def fleet_environment(redis_url: str, database_url: str, **overrides: str) -> dict[str, str]:
    """Return an environment for all processes of one fleet. Each call makes new secrets."""
    return {
        "USE_REDIS_SESSIONS": "true",
        "REDIS_URL": redis_url,
        "DATABASE_URL": database_url,
        "SESSION_ENCRYPTION_KEY": secrets.token_hex(32),
        "SESSION_SECRET": secrets.token_hex(32),
        "APP_ENV": "development",
        "HOST": "127.0.0.1",
        **overrides,
    }


def embedded_environment(directory: Path, **overrides: str) -> dict[str, str]:
    return {"DATABASE_URL": f"sqlite:///{directory}/reporadar.db", "HOST": "127.0.0.1", **overrides}
