"""Who am I: the identity of this instance, in logs, headers, the registry and the names of its connections."""

from __future__ import annotations

import os
import secrets
import socket
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from app.core.timestamps import iso

# Made once by the gunicorn master and inherited by its workers, so that their lines can be found together.
_RANDOM = secrets.token_hex(4)


@dataclass(frozen=True)
class Instance:
    instance_id: str
    hostname: str
    pid: int
    start_time: datetime
    nonce: str  # tells this process from an earlier one of the same name

    @property
    def uptime(self) -> int:
        """Whole seconds since the start."""
        return int((datetime.now(UTC) - self.start_time).total_seconds())

    def metadata(self) -> dict[str, Any]:
        return {
            "instance_id": self.instance_id,
            "hostname": self.hostname,
            "pid": self.pid,
            "start_time": iso(self.start_time),
            "uptime": self.uptime,
        }


def identify(configured: str | None, *, role: str = "") -> Instance:
    """Names this process; to be called again after a fork. A `role` such as `w2` tells processes of one name apart."""
    global _current
    hostname, pid = socket.gethostname(), os.getpid()
    name = configured or f"{hostname}-{pid}-{_RANDOM}"
    instance_id = f"{name}-{role}" if role else name
    _current = Instance(instance_id, hostname, pid, datetime.now(UTC), secrets.token_hex(8))
    return _current


def current() -> Instance:
    return _current


_current = identify(None)
