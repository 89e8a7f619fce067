"""What the application collects by itself: the one table that it records from, and that people read on /settings and /privacy."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Collected:
    """A kind of event. `words` and those of the properties are what people read."""

    name: str
    category: str
    words: str
    endpoints: tuple[str, ...] = ()  # whose success is such an event; without any, a page's script or a view tells
    properties: Mapping[str, str] = field(default_factory=dict)


PAGE_VIEWED, PAGE_LEFT = "page_viewed", "page_left"
SIGN_UP_OPENED, SIGNED_UP = "sign_up_opened", "signed_up"
REPOSITORY_ADDED, ANALYSIS_REQUESTED, REPORT_VIEWED = "repository_added", "analysis_requested", "report_viewed"

_PATH = {"path": "the address of the page, with a placeholder for the number of a repository"}

COLLECTED = (
    Collected(PAGE_VIEWED, "navigation", "A page was opened", properties=_PATH),
    Collected(PAGE_LEFT, "navigation", "A page was left", properties=_PATH | {"seconds": "how long it could be seen"}),
    Collected(SIGN_UP_OPENED, "account", "The form to register was opened", endpoints=("web.register",)),
    Collected(SIGNED_UP, "account", "An account was opened", endpoints=("web.open_account", "auth.register")),
    Collected(REPOSITORY_ADDED, "repositories", "A repository was added", endpoints=("web.add_repository", "repositories.add")),
    Collected(
        ANALYSIS_REQUESTED,
        "repositories",
        "An analysis was asked for",
        endpoints=("web.add_repository", "repositories.add", "web.analyse_again", "repositories.analyse"),
    ),
    Collected(REPORT_VIEWED, "repositories", "A report was looked at"),
    Collected(
        "notifications_opened", "notifications", "The list of notifications was opened", endpoints=("web.show_notifications",)
    ),
    Collected("notification_followed", "notifications", "The link of a notification was followed"),
)

BY_NAME = {kind.name: kind for kind in COLLECTED}

# What people do one after the other. The sign-up is a visitor's last event before there is an account.
FUNNELS = {
    "Sign-up": (SIGN_UP_OPENED, SIGNED_UP),
    "Analysis": (REPOSITORY_ADDED, ANALYSIS_REQUESTED, REPORT_VIEWED),
}
