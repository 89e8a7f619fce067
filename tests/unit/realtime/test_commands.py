from __future__ import annotations

import pytest
from click.testing import Result
from flask import Flask

from app.core import config
from app.core.config import Config
from app.realtime.commands import emit
from harness.servers import embedded_environment, fleet_environment
from tests.unit.conftest import UNUSED_DATABASE_URL


def run(settings: Config, *arguments: str) -> Result:
    app = Flask("test")
    app.config["REPORADAR"] = settings
    return app.test_cli_runner().invoke(emit, list(arguments))


def test_event_is_published(fleet_config: Config) -> None:
    result = run(fleet_config, "user:7", "deployed", '{"version": 1}')
    assert (result.exit_code, result.output) == (0, "received by 0 instances\n")


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (["user:7", "notification", "{}"], "the event notification belongs to RepoRadar; to send a notification, use: "),
        (["user:7", "deployed", "{"], "the data are not JSON: "),
        (["user:7", "deployed", "NaN"], "the data cannot be represented in JSON: "),
        (["user:7", "deployed", "[" * 100_000], "the data are not JSON: "),
        (["", "deployed"], "the name of the room must be "),
        (["user:7", "deployed", '"' + "x" * 65_536 + '"'], "the data have 65,540 bytes of JSON; "),
    ],
)
def test_event_that_cannot_be_sent_is_refused_in_one_line(fleet_config: Config, arguments: list[str], reason: str) -> None:
    result = run(fleet_config, *arguments)
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert result.output.startswith(f"Error: {reason}")


def test_embedded_mode_is_refused_with_a_pointer(tmp_path_factory: pytest.TempPathFactory) -> None:
    result = run(config.load(embedded_environment(tmp_path_factory.mktemp("embedded"))), "user:7", "deployed")
    assert (result.exit_code, result.output.count("\n")) == (2, 1)
    assert result.output.startswith("Error: USE_REDIS_SESSIONS: is not true; ")
    assert "flask --app wsgi notify" in result.output


@pytest.mark.parametrize("scheme", ["redis", "redis+cluster"])
def test_redis_that_does_not_answer_is_reported(scheme: str) -> None:
    url = f"{scheme}://:hidden4711@127.0.0.1:1"
    result = run(config.load(fleet_environment(url, UNUSED_DATABASE_URL)), "user:7", "deployed")
    assert (result.exit_code, result.output.count("\n")) == (1, 1)
    assert result.output.startswith("Error: the event may not have been emitted: Redis does not answer: ")
    assert "refused" in result.output
    assert "hidden4711" not in result.output
