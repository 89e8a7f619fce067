from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from app.core.mail import Mailer
from app.notifications import content
from app.notifications.channel_store import Item
from harness.mail import MailServer

SITE = "https://radar.example.org"
NOW = datetime(2026, 11, 30, 12, tzinfo=UTC)


def item(title: str = "Hello", type: str = "message", **data: Any) -> Item:
    return Item(17, type, title, data, NOW)


@pytest.mark.parametrize(
    ("notification", "path"),
    [
        (item(type="release.found", repository_id=7, analysis_id=3), "/repositories/7"),
        (item(type="export.ready", export_id=5, rows=2), "/api/analytics/exports/5"),
        (item(type="channel.disabled", channel_id=1), "/settings#channels"),
        (item(type="test"), "/settings#channels"),
        (item(), "/notifications"),
    ],
)
def test_target_is_what_a_notification_is_about(notification: Item, path: str) -> None:
    assert content.target(notification) == path


def test_webhook_contains_the_notification_and_a_text_for_slack() -> None:
    document = json.loads(content.webhook_body(item("<!channel> & friends", "release.found", repository_id=7), SITE))
    assert document == {
        "type": "release.found",
        "timestamp": "2026-11-30T12:00:00.000Z",
        "text": f"&lt;!channel&gt; &amp; friends\n{SITE}/repositories/7",
        "seq": 17,
        "title": "<!channel> & friends",
        "url": f"{SITE}/repositories/7",
        "data": {"repository_id": 7},
    }


def test_webhook_of_a_site_without_a_public_address_has_no_link() -> None:
    document = json.loads(content.webhook_body(item(), None))
    assert (document["text"], document["url"]) == ("Hello", None)


def test_mail_lists_all_notifications_whatever_their_titles_contain() -> None:
    titles = ["flask\r\nBcc: eve@example.org released 3.1", "Ünïcode \x00\u202e title", "third " + "x" * 5000]
    with MailServer() as server:
        mailer = Mailer(f"smtp://127.0.0.1:{server.port}", "radar@example.org")
        for found in ([item(title, repository_id=7) for title in titles], [item(titles[0])]):
            mailer.send("ada@example.org", *content.mail(found, SITE), message_id="<notifications-1-2@radar.example.org>")
        several, one = server.wait_for(2)
    assert several["Subject"] == "3 notifications from RepoRadar"
    assert (one["Subject"], one["Bcc"]) == ("flask Bcc: eve@example.org released 3.1", None)
    text = several.get_content()
    assert text.count(f"{SITE}/repositories/7\r\n") == 3
    assert f"Change or stop them: {SITE}/settings#channels" in text
    assert [name in text for name in ("flask Bcc: eve", "Ünïcode \ufffd\ufffd title", "\x00")] == [True, True, False]
    assert one["Message-ID"] == "<notifications-1-2@radar.example.org>"
