"""A collector of traces, which can be stopped, frozen, or made to refuse them."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import httpx

from harness import web
from harness.servers import ROOT, Server


class ReceivedSpan(NamedTuple):
    process: str  # the ID of the instance or worker
    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str  # empty if it is the first span of its trace
    is_error: bool
    attributes: dict[str, Any]


class Collector(Server):
    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def text(self) -> str:
        """Return all received spans as text."""
        path = self.folder / "spans"
        return path.read_text() if path.exists() else ""

    def spans(self) -> list[ReceivedSpan]:
        return [ReceivedSpan(**json.loads(line)) for line in self.text().splitlines()]

    def refuse(self) -> None:
        """Answer with 503 from now on."""
        (self.folder / "refuse").touch()

    def accept(self) -> None:
        (self.folder / "refuse").unlink()

    def _working_directory(self) -> Path:
        return ROOT

    def _command(self) -> list[str]:
        return [sys.executable, "-m", "harness.collector_program", str(self.port), str(self.folder)]

    def _answers(self) -> bool:
        try:
            return web.get(self.url, timeout=2).is_success
        except httpx.TransportError:
            return False
