from __future__ import annotations

import dataclasses
import math

import pytest

from bench import capacity
from bench.capacity import FIGURES, MACHINE, PAGE, UserLoad


def replace_figure(monkeypatch: pytest.MonkeyPatch, name: str, value: float) -> None:
    monkeypatch.setitem(FIGURES, name, dataclasses.replace(FIGURES[name], value=value))


def test_page_is_up_to_date() -> None:
    page = PAGE.read_text()
    assert capacity.update_tables(page) == page, "run .venv/bin/python -m bench.capacity"


def test_other_figures_change_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_figure(monkeypatch, "request", FIGURES["request"].value * 3)
    page = PAGE.read_text()
    assert capacity.update_tables(page) != page
    assert capacity.update_tables(page).count("<!-- end -->") == len(capacity.TABLES)


@pytest.mark.parametrize("bottleneck", capacity.bottlenecks(), ids=lambda bottleneck: bottleneck.what)
def test_bottleneck_is_where_need_exceeds_the_limit(bottleneck: capacity.Bottleneck) -> None:
    least, more = UserLoad(bottleneck.users), UserLoad(bottleneck.users * 1.01 + 1)
    assert bottleneck.needed(least) <= bottleneck.limit < bottleneck.needed(more)


def test_messages_of_others_can_exceed_the_capacity_of_all_instances(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_figure(monkeypatch, "message_elsewhere", 1e6)
    assert capacity.instances(UserLoad(1e6)) == math.inf


def test_messages_are_no_bottleneck_if_only_one_instance_receives_them(monkeypatch: pytest.MonkeyPatch) -> None:
    replace_figure(monkeypatch, "message_elsewhere", 0)
    assert all("messages" not in bottleneck.what for bottleneck in capacity.bottlenecks())
    assert "no limit" in "\n".join(capacity.capacity_table())


def test_number_of_instances_follows_from_the_scarcest_resource(monkeypatch: pytest.MonkeyPatch) -> None:
    load = UserLoad(1e6)
    assert capacity.instances(load) >= load.open_sockets / MACHINE.max_sockets
    replace_figure(monkeypatch, "socket", 2_000)  # kB
    assert capacity.instances(load) == math.ceil(load.open_sockets / 500)
    assert capacity.instances(UserLoad(1)) == 1


def test_load_is_proportional_to_users() -> None:
    assert UserLoad(1e4).requests == pytest.approx(50)
    assert UserLoad(1e4).stored_events == pytest.approx(1e4 * 0.1 / 60 / 4 * 86_400 * 365)
