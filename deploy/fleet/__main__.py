"""`python -m deploy.fleet`, which is `make fleet`."""

from __future__ import annotations

import fcntl
import os
import sys
from pathlib import Path
from typing import IO

from deploy.fleet import members, settings, supervisor
from deploy.fleet.members import FOLDER, INSTANCE_FOLDER
from deploy.fleet.processes import Processes
from deploy.fleet.programs import ROOT, Refused, find_all, lesser_account
from deploy.fleet.supervisor import StopWished, Supervisor
from deploy.fleet.terminal import Terminal

ENVIRONMENT_FILE = INSTANCE_FOLDER / "fleet.env"


class Fleet:
    def __init__(self) -> None:
        """Everything that can be known to be wrong is, before anything starts."""
        self.programs = find_all()
        account = lesser_account()
        members.make_folder()
        self.lock = claim(FOLDER / "lock")
        self.ports = settings.read_ports(os.environ)
        self.kept = settings.keep_secrets(FOLDER / "secrets.json")
        self.shared = settings.shared_environment(os.environ, self.ports, self.kept)
        self.config = settings.check(self.shared)
        self.place = members.make_place(account)
        self.url = f"http://127.0.0.1:{self.ports.fleet}"
        environment = settings.process_environment(os.environ, self.shared)
        self.release = members.release(environment)
        self.work = [*members.instances(environment, self.ports), members.worker(environment)]
        self.terminal = Terminal([*(program.name for program in self.work), "nginx", "redis", "postgres", "release"])

    def run(self) -> None:
        for stale in FOLDER.glob("*.pid"):
            stale.unlink()
        (FOLDER / "supervisor.pid").write_text(f"{os.getpid()}\n")
        processes = Processes(self.terminal, self.lock.fileno())
        chief = Supervisor(processes, self.terminal, FOLDER)
        try:
            self._start(chief)
            chief.watch()
        except StopWished:
            pass
        finally:
            seconds = self.config.shutdown_timeout + 5.0
            first = ["release", *(program.name for program in self.work)]
            chief.stop([(first, seconds), (["nginx"], 10.0), (["redis", "postgres"], supervisor.STORES_STOP_SECONDS)])
            processes.close()
            (FOLDER / "supervisor.pid").unlink(missing_ok=True)
        self.terminal.say("everything has stopped; the data stays")

    def _start(self, chief: Supervisor) -> None:
        self.terminal.say(f"starting; the data is in {shown(FOLDER)}{self._elsewhere()}")
        self._start_stores(chief)
        settings.write_private(ENVIRONMENT_FILE, settings.as_lines(self.shared | {"FLEET_URL": self.url}))
        chief.run_to_its_end(self.release)
        for program in [*self.work, members.nginx(self.programs["nginx"], self.place, self.ports)]:
            chief.start(program)
        for name, port in self.ports.names().items():
            chief.wait_for(name, lambda port=port: supervisor.is_ready(port))  # type: ignore[misc]
        self._tell(chief)

    def _start_stores(self, chief: Supervisor) -> None:
        chief.start(members.redis(self.programs["redis-server"], self.ports.redis, self.kept["REDIS_PASSWORD"]))
        if not self.place.postgres_data.exists():
            self.terminal.say("making PostgreSQL's data folder")
            chief.run_to_its_end(members.initdb(self.programs["initdb"], self.place, self.kept["POSTGRES_PASSWORD"]))
            members.finish_initdb(self.place)
        connections = members.connections(self.config, self.ports)
        chief.start(members.postgres(self.programs["postgres"], self.place, self.ports.postgres, connections))
        chief.wait_for("redis", lambda: supervisor.redis_answers(self.shared["REDIS_URL"]))
        chief.wait_for("postgres", lambda: supervisor.postgres_answers(self.shared["DATABASE_URL"], self.place.postgres_data))

    def _tell(self, chief: Supervisor) -> None:
        where = {name: f"http://127.0.0.1:{port}" for name, port in self.ports.names().items()}
        where |= {"worker-1": "-", "redis": f"127.0.0.1:{self.ports.redis}", "postgres": f"127.0.0.1:{self.ports.postgres}"}
        lines = [f"  {name:12} {address:24} pid {chief.pid(name)}" for name, address in where.items()]
        for line in [
            "",
            f"The fleet runs. Open {self.url}",
            *lines,
            f"Its requests, and which instance answered: tail -f {shown(self.place.folder / 'nginx' / 'access.log')}",
            f"For flask commands: set -a; . {shown(ENVIRONMENT_FILE)}; set +a",
            "Kill what you like: it is started again. Ctrl-C stops everything.",
            "",
        ]:
            self.terminal.say(line)

    def _elsewhere(self) -> str:
        return f", PostgreSQL's, which is not run by root, in {self.place.folder}" if self.place.account else ""


def claim(file: Path) -> IO[str]:
    """Held until the last process of this fleet is gone; so a second fleet of this folder is refused."""
    stream = file.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise Refused("A fleet of this folder runs already. Each needs a checkout of its own.") from None
    return stream


def shown(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main() -> None:
    try:
        Fleet().run()
    except Refused as refusal:
        sys.stderr.write(f"make fleet: {refusal}\n")
        sys.exit(refusal.status)


if __name__ == "__main__":
    main()
