from __future__ import annotations

import dataclasses
import math

import pytest

from bench import capacity
from bench.capacity import FIGURES, MACHINE, PAGE, People


def replaced(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    monkeypatch.setitem(FIGURES, name, dataclasses.replace(FIGURES[name], value=value))


def test_the_page_says_what_follows_from_the_figures() -> None:
    page = PAGE.read_text()
    assert capacity.filled(page) == page, "run .venv/bin/python -m bench.capacity"


def test_other_figures_make_another_page(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "request", FIGURES["request"].value * 3)
    page = PAGE.read_text()
    assert capacity.filled(page) != page
    assert capacity.filled(page).count("<!-- end -->") == len(capacity.TABLES)


@pytest.mark.parametrize("wall", capacity.walls(), ids=lambda wall: wall.what)
def test_a_wall_is_where_what_is_needed_passes_what_there_is(wall: capacity.Wall) -> None:
    assert wall.needed(People(wall.users)) <= wall.limit < wall.needed(People(wall.users * 1.01 + 1))


def test_what_instances_hear_of_each_other_can_be_more_than_all_of_them_can_do(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "message_elsewhere", 1e6)
    assert capacity.instances(People(1e6)) == math.inf


def test_without_that_there_is_no_such_wall(monkeypatch: pytest.MonkeyPatch) -> None:
    replaced(monkeypatch, "message_elsewhere", 0)
    assert all("messages" not in wall.what for wall in capacity.walls())
    assert "no limit" in "\n".join(capacity.carried_table())


def test_instances_follow_from_whatever_is_full_first(monkeypatch: pytest.MonkeyPatch) -> None:
    people = People(1e6)
    assert capacity.instances(people) >= people.open_sockets / MACHINE.max_sockets
    replaced(monkeypatch, "socket", 2_000)  # kB
    assert capacity.instances(people) == math.ceil(people.open_sockets / 500)
    assert capacity.instances(People(1)) == 1


def test_users_add_up() -> None:
    assert People(1e4).requests == pytest.approx(50)
    assert People(1e4).stored_events == pytest.approx(1e4 * 0.1 / 60 / 4 * 86_400 * 365)
