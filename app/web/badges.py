"""The badge of a shared report: what it says, and the widths of its texts in pixels. `templates/badge.svg` draws it."""

from dataclasses import dataclass

from app.repositories.service import PastAnalysis
from app.web import reports

LABEL = "RepoRadar"
FONT_PIXELS = 11
# White text has a contrast of at least 4.5:1 to each.
COLOURS = {"strong": "#2d7d2d", "fair": "#8f6400", "weak": "#c0392b", None: "#6a6a6a"}
# Advance widths of Verdana in thousandths of the font size. The badge fits other fonts to the same width.
WIDTHS = {" ": 352, "R": 695, **dict.fromkeys("0123456789", 636), **dict.fromkeys("bdgp", 623), **dict.fromkeys("ky", 592)}
WIDTHS |= {"a": 601, "e": 596, "f": 352, "i": 274, "n": 633, "o": 607, "r": 427, "s": 521, "c": 521, "t": 394, "w": 818}


@dataclass(frozen=True)
class Badge:
    message: str
    spoken: str  # for screen readers, and shown by browsers when someone points at the badge
    band: str | None = None
    label: str = LABEL

    @property
    def title(self) -> str:
        return f"{self.label}: {self.spoken}"

    @property
    def colour(self) -> str:
        return COLOURS[self.band]

    @property
    def label_width(self) -> int:
        return text_width(self.label)

    @property
    def message_width(self) -> int:
        return text_width(self.message)


def badge_of(last_success: PastAnalysis | None) -> Badge:
    """Return the badge with the band and the overall score of the last report."""
    if last_success is None:
        return Badge("no report yet", "no report yet")
    score = last_success.scores.get("overall")
    if score is None:
        return Badge("no score", "no overall score")
    band = reports.overall_band(last_success)
    return Badge(f"{band} {score}" if band else f"{score}", f"{score} of 100{f', {band}' if band else ''}", band)


def text_width(text: str) -> int:
    """Return the width of a text in pixels, rounded up to an odd number: its centre is then in the middle of a pixel."""
    width = sum(WIDTHS[character] for character in text) * FONT_PIXELS // 1000
    return width if width % 2 else width + 1
