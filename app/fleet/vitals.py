"""The report of an instance about itself: identity, status, load and advice."""

import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

import gevent

from app.core import metrics
from app.core.instance import Instance
from app.core.tasks import InstanceTask
from app.core.version import VERSION
from app.fleet.advice import METRICS, Advisor, Sample
from app.server.lifecycle import Lifecycle

SAMPLE_EVERY_SECONDS = 1.0


class Vitals:
    def __init__(
        self,
        instance: Instance,
        lifecycle: Lifecycle,
        config_fingerprint: str,
        measure: Callable[[], dict[str, Any]],
    ) -> None:
        """`measure` returns the fields of a Sample except `at`."""
        self._instance = instance
        self._lifecycle = lifecycle
        self._config_fingerprint = config_fingerprint
        self._measure = measure
        self.count_sockets: Callable[[], int] = lambda: 0  # set when the socket server has been built
        self.count_excess_sockets: Callable[[], int] = lambda: 0  # likewise: those that this instance is shedding
        self._advisor = Advisor()
        self._task = InstanceTask("vitals", SAMPLE_EVERY_SECONDS)

    def run(self) -> None:
        while True:
            gevent.sleep(SAMPLE_EVERY_SECONDS)
            self.observe()

    def observe(self) -> None:
        self._advisor.observe(Sample(at=time.monotonic(), **self._measure()))
        current = {advice.metric for advice in self._advisor.advice()}
        for metric in METRICS:
            metrics.advice.labels(metric).set(metric in current)
        self._task.succeed()

    def describe(self) -> dict[str, Any]:
        advice = [{"instance_id": self._instance.instance_id, **asdict(advice)} for advice in self._advisor.advice()]
        return {
            **self._instance.metadata(),
            "nonce": self._instance.nonce,
            "status": self._lifecycle.status,
            "version": VERSION,
            **self._measure(),
            "sockets": self.count_sockets(),
            "shedding": self.count_excess_sockets(),
            "config_fingerprint": self._config_fingerprint,
            "obstacles": self._lifecycle.not_ready_reasons(),
            "advice": advice,
        }
