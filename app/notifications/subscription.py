"""Which types of notifications a user gets: a default, which can be overridden for each repository."""

from collections.abc import Mapping
from dataclasses import dataclass

from app.core.errors import Invalid

# The types that can be switched, with the texts of the forms. Messages, exports and disabled channels are always notified.
TYPES = {
    "analysis.succeeded": "An analysis that you requested has finished",
    "analysis.failed": "An analysis that you requested has failed, or daily analyses fail repeatedly",
    "score.changed": "A score has moved by ten points or to another band",
    "release.found": "There is a new release",
    "repository.silent": "There have been no commits for unusually long",
    "repository.active": "There are commits again after a long silence",
    "license.changed": "The licence has changed",
}


@dataclass(frozen=True)
class Subscription:
    types: dict[str, bool]  # every type of TYPES
    inherited: bool  # the default applies: of the user for a repository, of the application for the user

    @classmethod
    def of(cls, chosen: Mapping[str, bool] | None, default: Mapping[str, bool]) -> "Subscription":
        """Return what applies if a user has chosen `chosen`, or nothing. Types that are in neither are on."""
        types = {name: (chosen or {}).get(name, default.get(name, True)) for name in TYPES}
        return cls(types, inherited=chosen is None)

    def change(self, types: Mapping[str, bool], default: Mapping[str, bool], *, inherit: bool) -> "Subscription":
        """Switch some types. With `inherit`, return to the default, unless a type is to differ from it. Raises Invalid."""
        unknown = sorted(set(types) - set(TYPES))
        if unknown:
            raise Invalid.field("types", f"{unknown[0]} can't be switched. The types are {', '.join(TYPES)}.")
        defaults = Subscription.of(None, default)
        if inherit and defaults.types == {**defaults.types, **types}:
            return defaults
        return Subscription({**self.types, **types}, inherited=False)
