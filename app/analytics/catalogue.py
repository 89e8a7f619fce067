"""The declared events: the only events that the application records itself. /settings and /privacy list them from this table."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class DeclaredEvent:
    """An event with a fixed set of properties. Users read `label` and the values of `properties`."""

    name: str
    category: str
    label: str
    endpoints: tuple[str, ...] = ()  # a successful request to one of them is recorded; without any, a view or script records it
    properties: Mapping[str, str] = field(default_factory=dict)


PAGE_VIEWED, PAGE_LEFT = "page_viewed", "page_left"
SIGN_UP_OPENED, SIGNED_UP = "sign_up_opened", "signed_up"
REPOSITORY_ADDED, ANALYSIS_REQUESTED, REPORT_VIEWED = "repository_added", "analysis_requested", "report_viewed"

_PATH = {"path": "the address of the page, with a placeholder for the number of a repository"}
_ADDING = ("web.add_repository", "repositories.add", "web.import_addresses", "repositories.import_text")

DECLARED_EVENTS = (
    DeclaredEvent(PAGE_VIEWED, "navigation", "A page was opened", properties=_PATH),
    DeclaredEvent(PAGE_LEFT, "navigation", "A page was left", properties=_PATH | {"seconds": "how long the page was visible"}),
    DeclaredEvent(SIGN_UP_OPENED, "account", "The sign-up form was opened", endpoints=("web.register",)),
    DeclaredEvent(SIGNED_UP, "account", "An account was created", endpoints=("web.create_account", "auth.register")),
    DeclaredEvent(REPOSITORY_ADDED, "repositories", "A repository was added", endpoints=_ADDING),
    DeclaredEvent(
        ANALYSIS_REQUESTED,
        "repositories",
        "An analysis was requested",
        endpoints=(*_ADDING, "web.analyse_again", "repositories.analyse"),
    ),
    DeclaredEvent(REPORT_VIEWED, "repositories", "A report was viewed"),
    DeclaredEvent(
        "notifications_opened", "notifications", "The list of notifications was opened", endpoints=("web.show_notifications",)
    ),
    DeclaredEvent("notification_followed", "notifications", "The link of a notification was followed"),
)

BY_NAME = {declared.name: declared for declared in DECLARED_EVENTS}

# The steps of each funnel, in order. The sign-up belongs to an anonymous visitor: there is no account yet.
FUNNELS = {
    "Sign-up": (SIGN_UP_OPENED, SIGNED_UP),
    "Analysis": (REPOSITORY_ADDED, ANALYSIS_REQUESTED, REPORT_VIEWED),
}
