"""The list of repositories: which of them it shows, and in which order."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from app.repositories.service import FollowedRepository
from app.web import reports

OVERALL = "overall"
SCORES = {OVERALL: "Overall", **reports.AREAS}
BANDS = ("strong", "fair", "weak")
WEAKEST = "weakest"

# Values of `?sort=` and their labels.
OTHER_ORDERS = {"added": "Last added", "name": "Name", "analysed": "Last analysed"}
BEST_FIRST = {"score" if name == OVERALL else name: f"Best {label.lower()}" for name, label in SCORES.items()}
WEAKEST_FIRST = {
    WEAKEST if name == OVERALL else f"{WEAKEST}-{name}": f"Weakest {label.lower()}" for name, label in SCORES.items()
}

Key = Callable[[FollowedRepository], Any]
OTHER_KEYS: dict[str, Key] = {
    "added": lambda entry: (-entry.followed_at.timestamp(), -entry.id),
    "name": lambda entry: (entry.name.casefold(), entry.id),
    "analysed": lambda entry: (-entry.as_of.timestamp() if entry.as_of else 0, entry.id),
}


@dataclass(frozen=True)
class ListFilter:
    """Which repositories the list shows: those with all words of `search` in their name or URL, with `tag` and in `band`."""

    search: str = ""
    tag: str = ""
    band: str = ""  # of the overall score
    order: str = "added"

    @property
    def is_active(self) -> bool:
        return bool(self.search or self.tag or self.band)

    @property
    def score(self) -> str:
        """The score that the list is sorted by and shows."""
        name = self.order.removeprefix(f"{WEAKEST}-")
        return name if name in reports.AREAS else OVERALL

    def apply(self, entries: Sequence[FollowedRepository]) -> list[FollowedRepository]:
        return sorted(filter(self._shows, entries), key=self._key())

    def _shows(self, entry: FollowedRepository) -> bool:
        text = f"{entry.name} {entry.url}".casefold()
        return (
            all(word in text for word in self.search.casefold().split())
            and (not self.tag or self.tag in entry.tags)
            and (not self.band or self.band == reports.overall_band(entry.last_success))
        )

    def _key(self) -> Key:
        if self.order in BEST_FIRST:
            return score_key(self.score, sign=-1)
        if self.order in WEAKEST_FIRST:
            return score_key(self.score, sign=1)
        return OTHER_KEYS.get(self.order, OTHER_KEYS["added"])


def score_key(name: str, sign: int) -> Key:
    """Return a key that sorts by a score, descending if `sign` is -1.

    Scores by older formulas, which cannot be compared with the others, follow them. Repositories without the score come last.
    """

    def key(entry: FollowedRepository) -> Any:
        score = (entry.scores or {}).get(name)
        return score is None, -(entry.formula_version or 0), sign * (score or 0), entry.name.casefold()

    return key


def tags_of(entries: Sequence[FollowedRepository]) -> list[str]:
    return sorted({tag for entry in entries for tag in entry.tags})
