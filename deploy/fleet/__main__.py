"""The entry point of `make fleet`: `python -m deploy.fleet`."""

import fcntl
import os
import sys
from pathlib import Path
from typing import IO

from deploy.fleet import services, settings, supervisor
from deploy.fleet.executables import ROOT, FleetError, find_all, unprivileged_account
from deploy.fleet.processes import ProcessManager
from deploy.fleet.services import FOLDER, INSTANCE_FOLDER
from deploy.fleet.supervisor import StopRequested, Supervisor
from deploy.fleet.terminal import Terminal

ENVIRONMENT_FILE = INSTANCE_FOLDER / "fleet.env"


class Fleet:
    def __init__(self) -> None:
        """Check everything that can be checked before a program starts. Raise FleetError."""
        self.programs = find_all()
        account = unprivileged_account()
        services.create_private_folders()
        self.lock = lock_exclusively(FOLDER / "lock")
        self.ports = settings.read_ports(os.environ)
        self.secrets = settings.load_or_create_secrets(FOLDER / "secrets.json")
        self.shared = settings.shared_environment(os.environ, self.ports, self.secrets)
        self.config = settings.check(self.shared)
        self.data = services.create_data_folder(account)
        self.url = f"http://127.0.0.1:{self.ports.fleet}"
        environment = settings.process_environment(os.environ, self.shared)
        self.release = services.release(environment)
        self.application = [*services.instances(environment, self.ports), services.worker(environment)]
        names = [*(program.name for program in self.application), "nginx", "redis", "postgres", "release"]
        self.terminal = Terminal(names)

    def run(self) -> None:
        for stale in FOLDER.glob("*.pid"):
            stale.unlink()
        (FOLDER / "supervisor.pid").write_text(f"{os.getpid()}\n")
        processes = ProcessManager(self.terminal, self.lock.fileno())
        running = Supervisor(processes, self.terminal, FOLDER)
        try:
            self._start(running)
            running.watch()
        except StopRequested:
            pass
        finally:
            timeout = self.config.shutdown_timeout + 5.0
            first = ["release", *(program.name for program in self.application)]
            running.stop([(first, timeout), (["nginx"], 10.0), (["redis", "postgres"], supervisor.STORES_STOP_SECONDS)])
            processes.close()
            (FOLDER / "supervisor.pid").unlink(missing_ok=True)
        self.terminal.say("the fleet has stopped; its data is kept")

    def _start(self, running: Supervisor) -> None:
        self.terminal.say(f"starting; data in {relative(FOLDER)}{self._postgres_folder()}")
        self._start_stores(running)
        settings.write_private(ENVIRONMENT_FILE, settings.format_env_file(self.shared | {"FLEET_URL": self.url}))
        running.run_once(self.release)
        for program in [*self.application, services.nginx(self.programs["nginx"], self.data, self.ports)]:
            running.start(program)
        for name, port in self.ports.names().items():
            running.wait_for(name, lambda port=port: supervisor.is_ready(port))  # type: ignore[misc]
        self._show_addresses(running)

    def _start_stores(self, running: Supervisor) -> None:
        running.start(services.redis(self.programs["redis-server"], self.ports.redis, self.secrets["REDIS_PASSWORD"]))
        if not self.data.postgres_data.exists():
            self.terminal.say("creating PostgreSQL's data folder")
            running.run_once(services.initdb(self.programs["initdb"], self.data, self.secrets["POSTGRES_PASSWORD"]))
            services.finish_initdb(self.data)
        connections = services.max_connections(self.config, self.ports)
        running.start(services.postgres(self.programs["postgres"], self.data, self.ports.postgres, connections))
        running.wait_for("redis", lambda: supervisor.is_redis_available(self.shared["REDIS_URL"]))
        url, folder = self.shared["DATABASE_URL"], self.data.postgres_data
        running.wait_for("postgres", lambda: supervisor.is_postgres_available(url, folder))

    def _show_addresses(self, running: Supervisor) -> None:
        addresses = {name: f"http://127.0.0.1:{port}" for name, port in self.ports.names().items()}
        addresses |= {"worker-1": "-", "redis": f"127.0.0.1:{self.ports.redis}", "postgres": f"127.0.0.1:{self.ports.postgres}"}
        for line in [
            "",
            f"The fleet is running. Open {self.url}",
            *(f"  {name:12} {address:24} pid {running.pid(name)}" for name, address in addresses.items()),
            f"Requests and the instances that answered them: tail -f {relative(self.data.folder / 'nginx' / 'access.log')}",
            f"Environment for flask commands: set -a; . {relative(ENVIRONMENT_FILE)}; set +a",
            "A process that you kill is restarted. Ctrl-C stops the fleet.",
            "",
        ]:
            self.terminal.say(line)

    def _postgres_folder(self) -> str:
        return f", PostgreSQL's data (not run as root) in {self.data.folder}" if self.data.account else ""


def lock_exclusively(file: Path) -> IO[str]:
    """Return the locked file. The lock is held until this fleet's last process has exited. Raise FleetError if it is taken."""
    stream = file.open("a")
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        raise FleetError("A fleet is already running in this folder. A second fleet needs its own checkout.") from None
    return stream


def relative(path: Path) -> str:
    return str(path.relative_to(ROOT)) if path.is_relative_to(ROOT) else str(path)


def main() -> None:
    try:
        Fleet().run()
    except FleetError as error:
        sys.stderr.write(f"make fleet: {error}\n")
        sys.exit(error.status)


if __name__ == "__main__":
    main()
