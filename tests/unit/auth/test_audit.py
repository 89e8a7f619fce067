from __future__ import annotations

import logging

import pytest

from app.auth import audit


def test_event_is_one_line_with_account_and_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "audit")
    audit.log_event("login.succeeded", "192.0.2.1", user=7, count=2)
    assert [(record.name, record.getMessage()) for record in caplog.records] == [
        ("audit", "login.succeeded address=192.0.2.1 user=7 count=2")
    ]


def test_account_digest_is_stable_and_hides_the_address() -> None:
    name = audit.account_digest("ada@example.org")
    assert name == audit.account_digest("ada@example.org") != audit.account_digest("bob@example.org")
    assert len(name) == 12
    assert "ada" not in name
