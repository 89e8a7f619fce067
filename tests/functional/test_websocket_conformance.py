"""The cases of the Autobahn test suite against the WebSocket of the application, run by kosoku."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from harness import scale
from harness.processes import free_port, wait_until
from harness.servers import ROOT, base_environment

COMPRESSION = ["12.*", "13.*"]  # never negotiated by the application
LARGE_IN_SMALL_FRAGMENTS = ["9.3.1", "9.3.2", "9.3.3", "9.3.4", "9.4.1", "9.4.2", "9.4.3", "9.4.4"]  # minutes of CPU
PASSED = {"OK", "NON-STRICT", "INFORMATIONAL"}


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    port = free_port()
    command = [sys.executable, "-m", "tests.functional.websocket_echo", str(port)]
    with (tmp_path / "log").open("wb") as log, subprocess.Popen(command, cwd=ROOT, env=base_environment(), stderr=log) as server:
        try:
            wait_until(lambda: is_listening(port), what="the echo server")
            yield port
        finally:
            server.terminate()


def is_listening(port: int) -> bool:
    ports = Path("/proc/net/tcp").read_text()
    return f"0100007F:{port:04X} 00000000:0000 0A" in ports


def run(port: int, folder: Path, excluded: list[str]) -> dict[str, dict[str, str]]:
    """Return the results by case."""
    kosoku = Path(sys.executable).with_name("kosoku")
    options = [option for case in excluded for option in ("--exclude", case)]
    command = [str(kosoku), "--parallelism", "4", "--outdir", str(folder), *options, f"127.0.0.1:{port}"]
    subprocess.run(command, check=False, capture_output=True, timeout=900)
    (results,) = json.loads((folder / "index.json").read_text()).values()
    return dict(results)


def failed(results: dict[str, dict[str, str]]) -> list[str]:
    return [case for case, result in results.items() if not {result["behavior"], result["behaviorClose"]} <= PASSED]


def test_websocket_passes_the_conformance_cases(port: int, tmp_path: Path) -> None:
    results = run(port, tmp_path, COMPRESSION + ([] if scale.FULL else LARGE_IN_SMALL_FRAGMENTS))
    assert failed(results) == []
    assert len(results) == 247 + (54 if scale.FULL else 54 - len(LARGE_IN_SMALL_FRAGMENTS))


def test_suite_detects_a_server_that_does_not_echo(tmp_path: Path) -> None:
    results = run(free_port(), tmp_path, [*COMPRESSION, "[2-9].*", "10.*"])
    assert results
    assert failed(results) == list(results)
