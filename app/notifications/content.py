"""The form of notifications in webhooks, mails and feeds."""

import hashlib
import json
import re
import uuid
from collections.abc import Sequence
from typing import Any, Protocol
from urllib.parse import urlsplit
from xml.etree import ElementTree

from app.core.timestamps import iso
from app.notifications.channel_store import Channel, Item

ATOM = "http://www.w3.org/2005/Atom"
SETTINGS_PATH = "/settings#channels"

_INVALID_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")  # XML 1.0, section 2.2


class _Described(Protocol):
    @property
    def type(self) -> str: ...

    @property
    def data(self) -> dict[str, Any]: ...


def target(notification: _Described) -> str:
    """Return the path of the page or file that a notification is about."""
    data = notification.data
    if repository_id := data.get("repository_id"):
        return f"/repositories/{repository_id}"
    if export_id := data.get("export_id"):
        return f"/api/analytics/exports/{export_id}"
    return SETTINGS_PATH if notification.type in ("channel.disabled", "test") else "/notifications"


def webhook_body(item: Item, public_url: str | None) -> bytes:
    """Return a JSON document. Slack and compatible services display its `text`."""
    url = public_url and public_url + target(item)
    text = _escape_for_slack(item.title)
    document = {
        "type": item.type,
        "timestamp": iso(item.created_at),
        "text": f"{text}\n{url}" if url else text,
        "seq": item.seq,
        "title": item.title,
        "url": url,
        "data": item.data,
    }
    return json.dumps(document, separators=(",", ":")).encode()


def mail(items: Sequence[Item], public_url: str) -> tuple[str, str]:
    """Return the subject and the text of a mail with all of the notifications, oldest first."""
    titles = [" ".join(item.title.split()) for item in items]
    subject = titles[0] if len(items) == 1 else f"{len(items)} notifications from RepoRadar"
    entries = [f"{title}\n{public_url}{target(item)}\n" for title, item in zip(titles, items, strict=True)]
    footer = f"--\nYou get at most one mail in ten minutes. Change or stop them: {public_url}{SETTINGS_PATH}\n"
    return _printable(subject)[:200], "\n".join([*map(_printable_lines, entries), footer])


def feed(channel: Channel, token: str, items: Sequence[Item], public_url: str, address: str) -> bytes:
    """Return an Atom feed (RFC 4287) of the notifications, newest first. `address` is the feed's own one."""
    root = ElementTree.Element("feed", xmlns=ATOM)
    _add(root, "id", _urn(token, "feed"))
    _add(root, "title", "RepoRadar")
    _add(root, "updated", iso(items[0].created_at if items else channel.created_at))
    _add(root, "link", rel="self", type="application/atom+xml", href=address)
    _add(root, "link", rel="alternate", type="text/html", href=f"{public_url}/notifications")
    _add(_add(root, "author"), "name", "RepoRadar")
    for item in items:
        entry = _add(root, "entry")
        _add(entry, "id", _urn(token, str(item.seq)))
        _add(entry, "title", item.title)
        _add(entry, "published", iso(item.created_at))
        _add(entry, "updated", iso(item.created_at))
        _add(entry, "link", rel="alternate", href=public_url + target(item))
        _add(entry, "category", term=item.type)
        _add(entry, "content", item.data.get("error") or item.title, type="text")
    return b'<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(root, encoding="unicode").encode()


def host(url: str) -> str:
    return urlsplit(url).hostname or "localhost"


def _add(parent: ElementTree.Element, name: str, text: str | None = None, **attributes: str) -> ElementTree.Element:
    element = ElementTree.SubElement(parent, name, attributes)
    element.text = text and _INVALID_IN_XML.sub("\ufffd", text)
    return element


def _urn(token: str, name: str) -> str:
    """Return an ID that no other feed contains and that does not reveal the token."""
    namespace = uuid.UUID(bytes=hashlib.sha256(f"feed\0{token}".encode()).digest()[:16])
    return uuid.uuid5(namespace, name).urn


def _escape_for_slack(text: str) -> str:
    """Escape the characters with which Slack marks links and mentions."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _printable_lines(text: str) -> str:
    return "\n".join(map(_printable, text.split("\n")))


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else "\ufffd" for c in text)
