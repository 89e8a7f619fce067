from __future__ import annotations

import pytest

from app.core.errors import Invalid
from app.notifications.subscription import TYPES, Subscription

ON = dict.fromkeys(TYPES, True)
NO_RELEASES = {**ON, "release.found": False}


def test_everything_is_on_until_a_user_chooses() -> None:
    assert Subscription.of(None, {}) == Subscription(ON, inherited=True)
    assert Subscription.of(None, NO_RELEASES) == Subscription(NO_RELEASES, inherited=True)
    assert Subscription.of({}, NO_RELEASES) == Subscription(NO_RELEASES, inherited=False)


def test_type_that_an_older_choice_does_not_contain_follows_the_default() -> None:
    assert Subscription.of({"score.changed": True}, NO_RELEASES).types == NO_RELEASES


def test_only_the_named_types_change() -> None:
    chosen = Subscription.of(NO_RELEASES, {}).change({"score.changed": False}, {}, inherit=False)
    assert chosen == Subscription({**NO_RELEASES, "score.changed": False}, inherited=False)


@pytest.mark.parametrize(
    ("types", "inherited"), [({}, True), (NO_RELEASES, True), (ON, False), ({"score.changed": False}, False)]
)
def test_a_document_that_was_read_can_be_written_back(types: dict[str, bool], inherited: bool) -> None:
    chosen = Subscription.of(None, NO_RELEASES).change(types, NO_RELEASES, inherit=True)
    assert chosen == Subscription({**NO_RELEASES, **types}, inherited=inherited)


@pytest.mark.parametrize("name", ["message", "channel.disabled", "export.ready", "x"])
def test_other_types_can_not_be_switched(name: str) -> None:
    with pytest.raises(Invalid):
        Subscription.of(None, {}).change({name: False}, {}, inherit=False)
