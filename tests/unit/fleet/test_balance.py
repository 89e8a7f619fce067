from __future__ import annotations

import random

import pytest

from app.fleet.balance import Balancer, excess_of
from app.fleet.store import FleetTotals
from tests.unit.conftest import MakeApp

DRAIN_RATE = 100  # an instance sheds a tenth of it per second
STEPS_PER_SECOND = 10


def totals_of(counts: list[int], *, is_changing: bool = False) -> FleetTotals:
    return FleetTotals(len(counts), 5 * len(counts), len(counts), sum(counts), min(counts, default=0), is_changing)


@pytest.mark.parametrize(
    ("counts", "excess"),
    [
        ([300, 300, 300, 0], 75),
        ([248, 225, 225, 202], 23),
        ([247, 225, 225, 203], 0),  # less than 1.1 times the mean
        ([69, 41, 40], 0),  # less than 20 above the mean
        ([70, 40, 40], 20),
        ([500, 500], 0),
        ([500], 0),
    ],
)
def test_instance_far_above_the_mean_sheds_down_to_it(counts: list[int], excess: int) -> None:
    assert excess_of(counts[0], totals_of(counts), is_shedding=False) == excess


def test_instance_that_sheds_continues_down_to_the_mean() -> None:
    counts = [230, 225, 225, 220]
    assert excess_of(counts[0], totals_of(counts), is_shedding=False) == 0
    assert excess_of(counts[0], totals_of(counts), is_shedding=True) == 5
    assert excess_of(220, totals_of(counts), is_shedding=True) == 0


def test_balancer_reports_how_many_it_sheds() -> None:
    fleet = SimulatedFleet([100, 40], hand_over=True)
    balancer = Balancer(SimulatedSockets(fleet, 0), lambda: totals_of(fleet.counts), DRAIN_RATE)
    assert (balancer.step(), balancer.excess, fleet.counts) == (True, 30, [99, 41])
    while balancer.step():
        pass
    assert (balancer.excess, fleet.counts) == (0, [70, 70])


@pytest.mark.parametrize("totals", [None, totals_of([300, 0], is_changing=True), totals_of([])])
def test_nothing_is_shed_while_the_fleet_changes_or_is_unknown(totals: FleetTotals | None) -> None:
    assert excess_of(300, totals, is_shedding=True) == 0


class SimulatedFleet:
    """Instances whose clients come and go every second, with heartbeats, and move every tenth of a second."""

    def __init__(self, counts: list[int], *, hand_over: bool, seed: int = 0) -> None:
        """`hand_over`: shed clients are refused by instances that have the mean or more, as those that hand over are."""
        self.counts = counts
        self.shed = [0] * len(counts)
        self._hand_over = hand_over
        self._random = random.Random(seed)  # noqa: S311 - not for secrets
        self._totals = totals_of(counts)
        self._balancers = [
            Balancer(SimulatedSockets(self, number), lambda: self._totals, DRAIN_RATE) for number in range(len(counts))
        ]

    @property
    def imbalance(self) -> float:
        """The sockets of the fullest instance divided by the mean."""
        return max(self.counts) * len(self.counts) / sum(self.counts)

    def run(self, seconds: int, arrivals_per_second: float = 0.0, lifetime_seconds: float = float("inf")) -> None:
        for step in range(seconds * STEPS_PER_SECOND):
            if step % STEPS_PER_SECOND == 0:
                self._turn_over(arrivals_per_second, 1 / lifetime_seconds)
                self._totals = totals_of(self.counts)
            for balancer in self._balancers:
                balancer.step()

    def move_from(self, number: int) -> None:
        self.shed[number] += 1
        self.counts[number] -= 1
        everywhere = range(len(self.counts))
        accepting = [number for number in everywhere if self.counts[number] < self._totals.mean_sockets]
        self.counts[self._random.choice(accepting if self._hand_over and accepting else everywhere)] += 1

    def _turn_over(self, arrivals: float, departure_probability: float) -> None:
        while self._random.random() < arrivals:
            self.counts[self._random.randrange(len(self.counts))] += 1
            arrivals -= 1
        for number, count in enumerate(self.counts):
            self.counts[number] -= sum(self._random.random() < departure_probability for _ in range(count))


class SimulatedSockets:
    def __init__(self, fleet: SimulatedFleet, number: int) -> None:
        self._fleet = fleet
        self._number = number

    @property
    def staying(self) -> int:
        return self._fleet.counts[self._number]

    def shed_one(self) -> None:
        self._fleet.move_from(self._number)


def test_new_instance_gets_its_share_and_no_socket_moves_twice() -> None:
    fleet = SimulatedFleet([300, 300, 300, 0], hand_over=True)
    fleet.run(10)
    assert fleet.imbalance <= 1.1
    assert sum(fleet.shed) == 225
    fleet.run(50)
    assert sum(fleet.shed) == 225


def test_new_instance_gets_its_share_if_the_balancer_sends_shed_clients_anywhere() -> None:
    fleet = SimulatedFleet([300, 300, 300, 0], hand_over=False)
    fleet.run(60)
    assert fleet.imbalance <= 1.1


@pytest.mark.parametrize("hand_over", [True, False])
def test_random_arrivals_and_departures_cause_no_shedding_back_and_forth(hand_over: bool) -> None:
    """Within ten minutes all clients are replaced twice, and hardly any is moved."""
    fleet = SimulatedFleet([225] * 4, hand_over=hand_over)
    fleet.run(600, arrivals_per_second=3, lifetime_seconds=300)
    assert sum(fleet.shed) <= 0.1 * sum(fleet.counts)


def test_without_thresholds_sockets_would_move_back_and_forth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("app.fleet.balance.MIN_EXCESS", 1)
    monkeypatch.setattr("app.fleet.balance.MAX_SHARE_OF_MEAN", 1.0)
    fleet = SimulatedFleet([225] * 4, hand_over=True)
    fleet.run(600, arrivals_per_second=3, lifetime_seconds=300)
    assert sum(fleet.shed) > 0.5 * sum(fleet.counts)


@pytest.mark.parametrize("rebalance", ["true", "false"])
def test_rebalance_false_turns_it_off(make_app: MakeApp, rebalance: str) -> None:
    lifecycle = make_app(REBALANCE=rebalance).extensions["lifecycle"]
    assert ("balance" in dict(lifecycle._background)) is (rebalance == "true")
