"""docs/scaling.md, followed as a reader would: its commands and its Python, in a checkout of our own, on ports of our own."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Self

import httpx
import pytest

from harness import guide, web
from harness.guide import Block
from harness.processes import Process, free_ports, run
from harness.scale import FULL
from harness.servers import ROOT, PostgresServer, base_environment, wait_until

BLOCKS = list(guide.blocks(guide.GUIDE.read_text(encoding="utf-8")))

# A command that does not end by itself gets a terminal of its own.
SERVER = re.compile(r"^redis-server\b|\bmake .*\b(run|fleet)$", re.MULTILINE)


class Reader:
    """A reader who types the commands of the guide, with other ports and without installing anything."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.checkout = folder / "checkout"
        self.terminals: list[Process] = []
        self._folder = folder
        self._environment = base_environment() | environment
        ports = zip(("3000", "3001", "3002", "3003", "6379", "8080"), map(str, free_ports(6)), strict=True)
        self._ports = dict(ports) | {"5432": environment.get("PGPORT", "5432")}

    def __enter__(self) -> Self:
        unneeded = shutil.ignore_patterns(".git", ".venv", "instance", "__pycache__", ".*_cache")
        shutil.copytree(ROOT, self.checkout, ignore=unneeded)
        (self.checkout / ".venv").symlink_to(sys.prefix)
        return self

    def __exit__(self, *_: object) -> None:
        for terminal in reversed(self.terminals):
            if terminal.status() is None:
                terminal.send_to_group(signal.SIGINT)  # Ctrl-C
            terminal.wait(90)
        # Where make fleet, run as root, keeps what others have to reach.
        shutil.rmtree(Path("/var/lib/reporadar", hashlib.sha256(os.fsencode(self.checkout)).hexdigest()[:12]), ignore_errors=True)

    def follow(self, stage: str) -> None:
        for block in BLOCKS:
            if block.kind in ("bash", "python") and guide.STAGES[block.section] == stage:
                self.do(self.translated(block))

    def do(self, block: Block) -> None:
        lines = [line for line in block.text.splitlines() if not guide.why_not_run(line)]
        if block.kind == "python":
            self._run(block, [sys.executable, "-u", "-W", "error", "-c", block.text])
        elif SERVER.search(block.text):
            commands = [line for line in lines if line and not line.startswith("#")]
            for port in [self._open_terminal(command) for command in commands]:
                wait_until(lambda port=port: self._serves(port), 120, f"{block}, port {port}")  # type: ignore[misc]
        else:
            self._type(block, "\n".join(lines))

    def translated(self, block: Block) -> Block:
        text = re.sub(r"\b(3000|3001|3002|3003|5432|6379|8080)\b", lambda match: self._ports[match[1]], block.text)
        redis = self._ports["6379"]
        for pattern, own in {
            r"^redis-cli (?!-u)": f"redis-cli -p {redis} ",
            # The PostgreSQL of the test accepts its superuser on 127.0.0.1.
            r"\bsudo -u postgres ": "",
            r"^redis-server ": f"redis-server --bind 127.0.0.1 --port {redis} ",
            # What the test run has installed already.
            r"\bmake (run|fleet)\b": r"make --old-file=installed \1",
            # Tests that ran tests would take twice as long: here they only have to exist.
            r'\bmake test ARGS="(.+)"': r"ls \1",
            # test_rehearsal.py runs it; here it takes as long as all the rest.
            r"\brehearse$": "rehearse" if FULL else "rehearse --help",
        }.items():
            text = re.sub(pattern, own, text, flags=re.MULTILINE)
        return block._replace(text=text)

    def log(self, terminal: int) -> str:
        return (self._folder / f"terminal-{terminal}" / "log").read_text(errors="replace")

    def _open_terminal(self, command: str) -> str:
        """Start a command in a new terminal and return the port that it will serve."""
        folder = self._folder / f"terminal-{len(self.terminals) + 1}"
        folder.mkdir()
        defaults = {"PORT": self._ports["3001" if "fleet" in command else "3000"], "FLEET_PORT": self._ports["8080"]}
        self.terminals.append(
            Process(["bash", "-c", command], environment=self._environment | defaults, directory=self.checkout, folder=folder)
        )
        named = re.search(r"(?:PORT=|--port )(\d+)", command)
        return named[1] if named else defaults["FLEET_PORT" if "fleet" in command else "PORT"]

    def _serves(self, port: str) -> bool:
        if any(terminal.status() is not None for terminal in self.terminals):
            raise AssertionError(f"it has ended: {self._last_words()}")
        try:
            if port == self._ports["6379"]:
                socket.create_connection(("127.0.0.1", int(port)), timeout=2).close()
                return True
            return web.get(f"http://127.0.0.1:{port}/health/ready", timeout=2).status_code == 200
        except (OSError, httpx.TransportError):
            return False

    def _type(self, block: Block, commands: str) -> None:
        """Run commands as in one shell: exported variables stay for the next block."""
        kept = self._folder / "environment"
        self._run(block, ["bash", "-e", "-o", "pipefail", "-c", f"{commands}\nenv --null > '{kept}'"])
        variables = [line.partition("=") for line in kept.read_text().split("\0") if line]
        self._environment = {name: value for name, _, value in variables}

    def _run(self, block: Block, command: list[str]) -> None:
        try:
            output = run(command, environment=self._environment, directory=self.checkout, timeout=300)
        except AssertionError as failure:
            raise AssertionError(f"{block}: {failure}\n{self._last_words()}") from None
        guide.check_output(block, output)

    def _last_words(self) -> str:
        return "\n".join(self.log(number)[-3000:] for number in range(1, len(self.terminals) + 1))


@pytest.fixture
def reader(tmp_path: Path) -> Iterator[Reader]:
    with Reader(tmp_path) as reader:
        yield reader


def test_guide_sets_up_redis(reader: Reader) -> None:
    reader.follow(guide.REDIS)


def test_guide_runs_one_embedded_instance(reader: Reader) -> None:
    reader.follow(guide.ALONE)
    reader.terminals[0].send_to_group(signal.SIGINT)
    wait_until(lambda: "stopped: clean in" in reader.log(1), what="a graceful end")


def test_guide_runs_a_fleet_in_three_terminals(tmp_path: Path) -> None:
    with PostgresServer() as postgres:
        account = {"PGHOST": "127.0.0.1", "PGPORT": str(postgres.port), "PGUSER": "postgres"}
        with Reader(tmp_path, **account) as reader:
            reader.follow(guide.BY_HAND)
            _, first, *_ = reader.terminals
            assert first.wait(60) == 0, reader.log(2)
            assert "stopped: clean in" in reader.log(2)
            check_log_lines(reader)


def check_log_lines(reader: Reader) -> None:
    """Assert that the terminals print the log lines of the guide, apart from the time."""
    (shown,) = [reader.translated(block) for block in BLOCKS if block.section == "Instance Identification in Logs"]
    for terminal, line in enumerate(shown.text.splitlines(), 2):
        stamp, rest = line[:26], line[26:]
        pattern = "^" + re.sub(r"\d", r"\\d", re.escape(stamp)) + re.escape(rest) + "$"
        assert re.search(pattern, reader.log(terminal), re.MULTILINE), line


def test_guide_runs_a_whole_fleet(reader: Reader) -> None:
    reader.follow(guide.FLEET)
    (drawing,) = [block for block in BLOCKS if block.section == "Architecture"]
    running = {file.stem for file in (reader.checkout / "instance" / "fleet").glob("*.pid")} - {"supervisor"}
    assert set(re.findall(r"[a-z][a-z0-9-]+", drawing.text)) == running


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        ("bash", "ls deploy/nginx/render.py"),
        ("bash", "false | true"),
        ("bash", "echo PING    # prints: PONG"),
        ("bash", "make walk"),
        ("python", "import httpx\nhttpx.get('http://127.0.0.1:3001/health')"),
        ("python", "print('instance-1')\n# prints: instance-2"),
    ],
)
def test_wrong_command_is_detected(reader: Reader, kind: str, text: str) -> None:
    with pytest.raises(AssertionError, match=re.escape("docs/scaling.md:1 ")):
        reader.do(reader.translated(Block("Overview", kind, text, 1)))
