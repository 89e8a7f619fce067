"""PgBouncer in transaction mode with the shipped configuration, between processes and the PostgreSQL of a test."""

from __future__ import annotations

import os
import shutil
from contextlib import closing

import psycopg2
from psycopg2.extensions import make_dsn

from harness.servers import ROOT, PostgresServer, Server

CONFIGURATION = ROOT / "deploy/pgbouncer/pgbouncer.ini"
ADMINISTRATOR = "pgbouncer"  # a role of PgBouncer's own, not of PostgreSQL


class PgBouncer(Server):
    """A PgBouncer on a port of its own in front of a PostgreSQL that has a password."""

    # It refuses to run as root.
    user = "postgres" if os.geteuid() == 0 else None

    def __init__(self, postgres: PostgresServer, **settings: str) -> None:
        """`settings`: of PgBouncer, which differ from the shipped configuration."""
        super().__init__()
        self._postgres = postgres
        self._settings = settings

    def url(self, database_url: str) -> str:
        """Return the URL of a database of this PostgreSQL through PgBouncer."""
        return database_url.replace(f":{self._postgres.port}/", f":{self.port}/")

    def administer(self, command: str) -> list[tuple[object, ...]]:
        """Run a command of PgBouncer's console, such as PAUSE; return its rows."""
        console = make_dsn(host="127.0.0.1", port=self.port, dbname="pgbouncer", user=ADMINISTRATOR, password=ADMINISTRATOR)
        with closing(psycopg2.connect(console, connect_timeout=20)) as connection:
            connection.autocommit = True
            with connection.cursor() as cursor:
                cursor.execute(command)
                return cursor.fetchall() if cursor.description else []

    def start(self, wait_ready: bool = True) -> None:
        users = {"postgres": self._postgres.scram_secret("postgres"), ADMINISTRATOR: ADMINISTRATOR}
        self._write("userlist.txt", "".join(f'"{name}" "{secret}"\n' for name, secret in users.items()))
        settings = {
            "listen_port": str(self.port),
            "auth_file": str(self.folder / "userlist.txt"),
            "admin_users": ADMINISTRATOR,
            "unix_socket_dir": "",
            **self._settings,
        }
        # Later lines win.
        lines = [f"%include {CONFIGURATION}", *(f"{name} = {value}" for name, value in settings.items())]
        lines += ["[databases]", f"* = host=127.0.0.1 port={self._postgres.port}"]
        self._write("pgbouncer.ini", "\n".join(lines) + "\n")
        super().start(wait_ready)

    def _write(self, name: str, text: str) -> None:
        path = self.folder / name
        path.write_text(text)
        if self.user:
            shutil.chown(path, self.user)

    def _command(self) -> list[str]:
        program = shutil.which("pgbouncer", path=f"{os.environ['PATH']}:/usr/sbin")
        if program is None:
            raise AssertionError("PgBouncer is missing: scripts/install-test-servers installs it")
        return [program, str(self.folder / "pgbouncer.ini")]

    def _answers(self) -> bool:
        try:
            return bool(self.administer("SHOW VERSION"))
        except psycopg2.OperationalError:
            return False
