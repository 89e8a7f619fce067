"""Schemathesis compares the API with its description: no undocumented response and no 500 for any input."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from harness.fleet import NO_RATE_LIMITS
from harness.processes import run
from harness.scale import count
from harness.servers import Instance, base_environment, embedded_environment, migrate, promote
from harness.users import User

EXAMPLES_PER_OPERATION = str(count(4, 30))

# These would end the session that the search runs with (it knows its id from the list); they are searched without one.
ENDING = [
    "POST /api/auth/logout",
    "POST /api/auth/login",
    "POST /api/auth/register",
    "DELETE /api/auth/sessions/{session_id}",
]

# All requests carry the cookie, so the first two, which leave it out, would look in vain for a refusal. And no schema can
# describe the addresses that lead to a repository, or which moment is after which.
REQUIRING_MORE = "negative_data_rejection,ignored_auth,positive_data_acceptance"

# JSON Schema accepts 7.0 as an integer, the application does not.
CONFIGURATION = """
[[operations]]
include-name = "POST /api/notifications/read"
checks.positive_data_acceptance.enabled = false
"""


@contextmanager
def an_instance(folder: Path, application: str = "wsgi:app") -> Iterator[Instance]:
    environment = embedded_environment(folder, **NO_RATE_LIMITS)
    migrate(environment)
    with Instance(environment, application=application) as instance:
        yield instance


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    with an_instance(tmp_path_factory.mktemp("instance")) as instance:
        yield instance


def search(instance: Instance, folder: Path, *options: str) -> str:
    """Run schemathesis. Raise AssertionError with its report if it finds something."""
    program = Path(sys.prefix) / "bin" / "st"
    (folder / "schemathesis.toml").write_text(CONFIGURATION)
    common = [
        "--max-examples",
        EXAMPLES_PER_OPERATION,
        "--generation-deterministic",
        "--no-color",
    ]
    command = [str(program), "--config-file", "schemathesis.toml", "run", f"{instance.url}/api/openapi.json", *common, *options]
    return run(command, environment=base_environment(), directory=folder, timeout=300)


def test_api_keeps_its_description_without_a_session(instance: Instance, tmp_path: Path) -> None:
    assert re.search(r"\b[1-9]\d* generated", search(instance, tmp_path))
    assert "Traceback" not in instance.log()


def test_api_keeps_its_description_for_a_user(instance: Instance, tmp_path: Path) -> None:
    user = User(instance).register()
    excluded = [word for name in ENDING for word in ("--exclude-name", name)]
    excluded += ["--exclude-checks", REQUIRING_MORE]
    search(instance, tmp_path, "--header", f"Cookie: {user.cookie_header}", *excluded)
    assert user.is_signed_in(), instance.log()
    assert "Traceback" not in instance.log()


def test_api_keeps_its_description_for_an_administrator(instance: Instance, tmp_path: Path) -> None:
    """Search the operations that refuse all other users."""
    user = User(instance).register()
    promote(instance.environment, user.email)
    options = ["--include-path-regex", "^/api/analytics/exports", "--exclude-checks", REQUIRING_MORE]
    search(instance, tmp_path, "--header", f"Cookie: {user.cookie_header}", *options)
    assert len(user.get("/api/analytics/exports").json()["exports"]) > 1  # it got in
    assert "Traceback" not in instance.log()


def test_undocumented_status_is_detected(tmp_path: Path) -> None:
    with (
        an_instance(tmp_path, "tests.faults.undocumented_status:app") as instance,
        pytest.raises(AssertionError, match=r"\[418\]"),
    ):
        search(instance, tmp_path, "--include-path-regex", "^/api/auth/sessions")
