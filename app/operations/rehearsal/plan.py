"""The parameters of a rehearsal, which the command passes to the rehearsal process."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass

ROLLING_RESTART, SIGKILL, REDIS_RESTART = "rolling restart", "SIGKILL", "Redis restart"


@dataclass(frozen=True)
class Plan:
    url: str
    instances: dict[str, str]  # INSTANCE_ID -> path of its gunicorn's pid file
    redis_restart: str | None  # shell command
    as_json: bool = False
    phases: tuple[str, ...] = (ROLLING_RESTART, SIGKILL, REDIS_RESTART)
    sockets: int = 60  # that receive notifications
    sockets_per_user: int = 2
    bystanders: int | None = None  # further sockets; None: as many as needed to observe the drain rate
    requests_per_second: int = 100
    notifications_per_second: int = 50
    logouts_per_second: int = 1
    event_batches_per_second: int = 10
    opt_outs_per_second: int = 1

    def dump(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def load(cls, text: str) -> Plan:
        fields = json.loads(text)
        return cls(**{**fields, "phases": tuple(fields["phases"])})
