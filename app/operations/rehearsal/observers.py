"""What the scenario looks at while it goes on: readiness, the sockets, and what the fleet tells of its stops."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import dataclass

from app.operations.rehearsal.measurements import ToldStop
from app.operations.rehearsal.stops import is_named
from app.operations.rehearsal.web import NoAnswer, Web


@dataclass(frozen=True)
class Crowd:
    """The sockets, as far as the scenario waits for them."""

    is_calm: Callable[[], bool]
    closings: Callable[[str, float], list[float]]  # of an instance, since a moment
    count: Callable[[str], int]  # of an instance, now
    dismiss_bystanders: Callable[[], None]


@dataclass(frozen=True)
class Account:
    """What the fleet tells an administrator of its last stops."""

    web: Web
    cookie: str

    def stops(self) -> dict[str, ToldStop]:
        """By what tells them apart; none if the fleet does not say."""
        try:
            answer = self.web.get("/api/fleet", self.cookie)
        except NoAnswer:
            return {}
        told = json.loads(answer.body)["stops"] if answer.status == 200 else []
        return {one["nonce"]: ToldStop(one["instance_id"], one["kind"], one["summary"]) for one in told}


class Readiness:
    """What /health/ready says of each instance, asked through the balancer again and again."""

    def __init__(self, web: Web) -> None:
        self._web = web
        self._seen: list[tuple[float, str, int]] = []  # when, instance, status

    def ask(self, _: int = 0) -> None:
        try:
            answer = self._web.get("/health/ready", fresh=False)
        except NoAnswer:
            return
        if answer.instance:
            self._seen.append((time.monotonic(), answer.instance, answer.status))

    def first(self, instance: str, status: int, since: float, until: float | None = None) -> float | None:
        """When the instance was first seen to answer so."""
        found = (at for at, name, seen in self._seen if at >= since and seen == status and is_named(name, [instance]))
        moment = next(found, None)
        return moment if moment is not None and (until is None or moment <= until) else None

    def names(self) -> set[str]:
        return {name for _, name, _ in self._seen}
