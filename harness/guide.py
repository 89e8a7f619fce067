"""Parser for docs/scaling.md: headings, fenced blocks, and the output that the blocks promise."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from typing import NamedTuple

from harness.servers import ROOT

GUIDE = ROOT / "docs" / "scaling.md"

# The running programs that the commands of a section need, in the order of the tests.
REDIS, ALONE, BY_HAND, FLEET, NOWHERE = "a Redis", "one embedded instance", "three terminals", "make fleet", "no machine of ours"
STAGES = {
    "Redis Setup": REDIS,
    "Single Instance (Development)": ALONE,
    "Manual Testing": BY_HAND,
    "Multiple Instances (Production)": FLEET,
    "Nginx Configuration": FLEET,
    "Features": FLEET,
    "1. Stateless Application": FLEET,
    "2. Instance Identification": FLEET,
    "3. Graceful Shutdown": FLEET,
    "4. WebSocket Multi-Instance Support": FLEET,
    "5. Shared Analytics Opt-Out": FLEET,
    "Health Check Endpoints": FLEET,
    "Instance Metadata Header": FLEET,
    "Unit Tests": FLEET,
    "Integration Tests": FLEET,
    "Troubleshooting": FLEET,
    "Redis Connection Issues": FLEET,
    "Option 1: Docker Compose": NOWHERE,
    "Option 2: Kubernetes": NOWHERE,
}

# Commands that no test runs, with the reason. bash checks their syntax, and the files that they name exist.
NOT_RUN = {
    "sudo apt-get install": "changes the machine",
    "brew install": "wants macOS",
    "tail -n 20 /var/log/": "only where Debian's package runs Redis",
    "docker compose": "wants a Docker engine",
    "curl --insecure https://localhost/": "wants what Docker Compose has started",
    "deploy/docker/make-secrets": "tests/functional/test_docker.py runs it",
    "flask --app wsgi rehearse": "tests/functional/test_rehearsal.py runs it, and it wants a machine of its own to be green",
    "cp deploy/kubernetes/": "makes a file that has to be filled in",
    "kubectl": "wants a cluster",
}

_FENCE = re.compile(r"^(?P<indent> *)```(?P<kind>\S*)\n(?P<text>.*?)^(?P=indent)```$", re.MULTILINE | re.DOTALL)
_PRINTS = re.compile(r"# prints: (.*)$", re.MULTILINE)


class Block(NamedTuple):
    section: str  # the heading that it stands under
    kind: str
    text: str
    line: int  # in the guide

    def __str__(self) -> str:
        return f"docs/scaling.md:{self.line} ({self.section})"


def headings(markdown: str) -> list[str]:
    """Return the headings with their number signs."""
    return re.findall(r"^#+ .+$", _FENCE.sub("", markdown), re.MULTILINE)


def blocks(markdown: str) -> Iterator[Block]:
    if len(re.findall(r"^ *```", markdown, re.MULTILINE)) != 2 * len(_FENCE.findall(markdown)):
        raise AssertionError("a fenced block has no end")
    for match in _FENCE.finditer(markdown):
        before = markdown[: match.start()]
        section = headings(before)[-1].lstrip("# ")
        yield Block(section, match["kind"], textwrap.dedent(match["text"]), before.count("\n") + 1)


def check_output(block: Block, output: str) -> None:
    """Raise AssertionError unless the output has every promised line, in this order. `…` matches any part of a line."""
    position = 0
    for promise in _PRINTS.findall(block.text):
        pattern = re.escape(promise.strip()).replace("…", r"[^\n]*?")
        match = re.compile(pattern).search(output, position)
        if match is None:
            raise AssertionError(f"{block} does not print {promise!r}, but\n{output[position:]}")
        position = match.end()


def why_not_run(command: str) -> str | None:
    return next((reason for start, reason in NOT_RUN.items() if command.startswith(start)), None)
