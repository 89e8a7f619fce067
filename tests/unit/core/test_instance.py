from __future__ import annotations

import os
import re
import socket
from datetime import UTC, datetime

from app.core import instance


def test_default_name_consists_of_host_pid_and_random_part() -> None:
    name = instance.identify(None).instance_id
    assert re.fullmatch(rf"{re.escape(socket.gethostname())}-{os.getpid()}-[0-9a-f]{{8}}", name)


def test_configured_name_is_used() -> None:
    assert instance.identify("instance-7").instance_id == "instance-7"


def test_gunicorn_workers_differ_by_their_number() -> None:
    assert instance.identify("instance-1", role="w1").instance_id == "instance-1-w1"
    assert instance.identify("instance-1", role="w2").instance_id == "instance-1-w2"


def test_current_is_the_last_identified_instance() -> None:
    instance.identify("instance-1")
    second = instance.identify("instance-2")
    assert instance.current() is second


def test_restart_with_the_same_name_has_a_new_nonce() -> None:
    assert instance.identify("instance-1").nonce != instance.identify("instance-1").nonce


def test_metadata_contains_name_host_pid_and_start_time() -> None:
    before = datetime.now(UTC)
    metadata = instance.identify("instance-1").metadata()
    assert list(metadata) == ["instance_id", "hostname", "pid", "start_time", "uptime"]
    assert (metadata["instance_id"], metadata["hostname"], metadata["pid"]) == ("instance-1", socket.gethostname(), os.getpid())
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", metadata["start_time"])
    assert abs((datetime.fromisoformat(metadata["start_time"]) - before).total_seconds()) < 60


def test_uptime_is_whole_seconds_since_the_start() -> None:
    started = datetime(2025, 10, 3, 20, tzinfo=UTC)
    old = instance.Instance("instance-1", "host", 1, started, "nonce")
    expected = (datetime.now(UTC) - started).total_seconds()
    assert isinstance(old.uptime, int)
    assert 0 <= old.uptime - int(expected) <= 60
