"""Tags, with which a user groups repositories."""

from collections.abc import Iterable

from app.core.errors import Invalid

MAX_TAGS = 10  # of one repository
MAX_TAG_LENGTH = 30


def normalize(tags: Iterable[str]) -> list[str]:
    """Return the tags in lower case and sorted, each once. Raises Invalid."""
    found = sorted({_normalized(tag) for tag in tags})
    if len(found) > MAX_TAGS:
        raise Invalid.field("tags", f"A repository has at most {MAX_TAGS} tags.")
    return found


def _normalized(tag: str) -> str:
    text = " ".join(tag.split()).lower()
    if not 1 <= len(text) <= MAX_TAG_LENGTH or not text.isprintable() or "," in text:
        raise Invalid.field("tags", f"A tag has 1 to {MAX_TAG_LENGTH} characters and no comma.")
    return text
