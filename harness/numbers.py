"""A rehearsal that prints the numbers behind its report: `python -m gevent.monkey --module harness.numbers SCENARIO PLAN`."""

import itertools
import json
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import Any

import gevent

from app import create_app
from app.core import config, instance, logs
from app.operations.rehearsal import program
from app.operations.rehearsal.checks import was_given_up
from app.operations.rehearsal.measurements import Measurements, RehearsalPhase, SocketOutage, SocketRecord
from app.operations.rehearsal.plan import ROLLING_RESTART, SIGKILL, Plan
from app.operations.rehearsal.scenario import AFTER_REDIS_SECONDS, Scenario
from harness.scale import count

REQUESTS, RESTARTS = count(800, 18_000), count(1, 3)
BEFORE = 200  # requests before all instances were ready, which do not count
NOTICED_SECONDS = 1  # within which a client notices on a quiet machine that its instance was killed


class Rolling(Scenario):
    """Restart all instances one by one, `RESTARTS` times at least and until there were `REQUESTS` requests."""

    def run(self) -> None:
        self._wait_until_all_ready()
        for number in itertools.count(1):
            with self._phase(ROLLING_RESTART) as phase:
                self._rolling_restart(phase)
            if number >= RESTARTS and len(self._measured.requests) >= REQUESTS + BEFORE:
                return


class RollingOnce(Scenario):
    def run(self) -> None:
        self._wait_until_all_ready()
        with self._phase(ROLLING_RESTART) as phase:
            self._rolling_restart(phase)


class Killing(Scenario):
    def run(self) -> None:
        self._wait_until_all_ready()
        with self._phase(SIGKILL) as phase:
            self._kill_one(phase)


class RedisAway(Scenario):
    """For as long as the plan's command takes."""

    def run(self) -> None:
        self._wait_until_all_ready()
        with self._phase("Redis away") as phase:
            phase.down_at = time.monotonic()
            subprocess.run(["sh", "-c", self._plan.redis_restart or ""], check=True)
            phase.back_at = time.monotonic()
            self._wait_until_settled()
            gevent.sleep(max(0.0, phase.back_at + AFTER_REDIS_SECONDS - time.monotonic()))


SCENARIOS = {scenario.__name__: scenario for scenario in (Rolling, RollingOnce, Killing, RedisAway)}


def numbers(measured: Measurements) -> dict[str, Any]:
    (last,) = measured.phases[-1:]
    requests = [request for request in measured.requests if measured.phases[0].started <= request.started < last.ended]
    failed = [request for request in requests if not request.ok]
    return {
        "interrupted": measured.interrupted,
        "restarts": len(measured.phases),
        "requests": len(requests),
        "posts": sum(request.method == "POST" for request in requests),
        "failed": len(failed),
        "given_up": sum(map(was_given_up, failed)),
        "why": sorted({request.error for request in failed})[:5],
        "longest_gap": longest_gap(request.ended for request in requests if request.ok),
        "slowest": max(request.seconds for request in requests),
        "failed_late": sum(request.started > (last.back_at or last.ended) + 5 for request in failed),
        "unanswered": sum(request.status not in (503, 200, 204) for request in failed),
        "signed_out": sum(socket.signed_out for socket in measured.sockets),
        "sockets": len(measured.sockets),
        "accepted": sum(map(len, measured.accepted.values())),
        **delivered(measured),
        "back": [round(seconds, 2) for seconds in back(measured.sockets, last)],
        "failed_attempts": [outage.failed_attempts for outage in outages_of_killed(measured.sockets, last)],
        "stall": measured.worst_load.stall,
        "slowdown": measured.worst_load.slowdown,
    }


def longest_gap(moments: Iterable[float]) -> float:
    ordered = sorted(moments)
    return max(later - earlier for earlier, later in itertools.pairwise(ordered))


def delivered(measured: Measurements) -> dict[str, int]:
    lost = doubled = disordered = 0
    for socket in measured.sockets:
        seqs = [seq for _, seq in socket.received]
        lost += len(set(measured.accepted.get(socket.user_id, {})) - set(seqs))
        doubled += len(seqs) - len(set(seqs))
        disordered += sum(later < earlier for earlier, later in itertools.pairwise(seqs))
    return {"lost": lost, "doubled": doubled, "disordered": disordered}


def outages_of_killed(sockets: Iterable[SocketRecord], phase: RehearsalPhase) -> list[SocketOutage]:
    """Return the outages that the SIGKILL caused.

    When the killed instance has returned, the others close some sockets so that it gets its share. Those do not count.
    """
    since = phase.killed_at
    if since is None:
        return []
    outages = [outage for socket in sockets for outage in socket.outages if outage.instance == phase.killed]
    return [outage for outage in outages if 0 <= outage.lost_at - since <= NOTICED_SECONDS + phase.load.stall]


def back(sockets: Iterable[SocketRecord], phase: RehearsalPhase) -> list[float]:
    """Return after how many seconds each socket of the killed instance was served again; 999 for never."""
    outages = outages_of_killed(sockets, phase)
    return sorted(999.0 if outage.back_at is None else outage.back_at - (phase.killed_at or 0.0) for outage in outages)


def main() -> None:
    program.Scenario = SCENARIOS[sys.argv[1]]  # type: ignore[attr-defined]
    settings = config.from_environment_or_exit()
    instance.identify("rehearsal")
    logs.configure("text", "ERROR")
    measured = program.rehearse(Plan.load(sys.argv[2]), settings, create_app(settings))
    sys.stdout.write(json.dumps(numbers(measured)))


if __name__ == "__main__":
    main()
