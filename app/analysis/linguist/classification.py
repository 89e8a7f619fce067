"""Decides whether the lines of a file count, and for which language, as the statistics of Linguist do."""

from dataclasses import dataclass

from app.analysis.linguist.detection import TextFile, detect
from app.analysis.linguist.generated import is_generated
from app.analysis.linguist.languages import by_alias, type_of
from app.analysis.linguist.paths import is_documentation, is_vendored
from app.analysis.linguist.time_limit import TimeLimitExceeded, cpu_time_limit

MAX_SECONDS_PER_FILE = 0.3  # of processor time
COUNTED_TYPES = ("programming", "markup")


@dataclass(frozen=True)
class Attributes:
    """What `.gitattributes` files say about a file. None means that they say nothing."""

    vendored: bool | None = None
    documentation: bool | None = None
    generated: bool | None = None
    detectable: bool | None = None
    language: str | None = None


def kind_of_path(path: bytes, attributes: Attributes) -> str | None:
    """Return "vendored" or "documentation" if the file does not count whatever it contains, else None."""
    if is_vendored(path) if attributes.vendored is None else attributes.vendored:
        return "vendored"
    if is_documentation(path) if attributes.documentation is None else attributes.documentation:
        return "documentation"
    return None


def classify(path: bytes, content: bytes, size: int, attributes: Attributes) -> tuple[str | None, str | None]:
    """Return the language that the lines of a text file count for, or the kind of files that it belongs to instead.

    Both are None if `.gitattributes` excludes a file of a language that usually counts.
    `content` is at most the first CONSIDERED_BYTES of the file, `size` its size in bytes.
    """
    try:
        with cpu_time_limit(MAX_SECONDS_PER_FILE):
            return _classify(path, content, size, attributes)
    except TimeLimitExceeded:
        return None, "unknown"


def _classify(path: bytes, content: bytes, size: int, attributes: Attributes) -> tuple[str | None, str | None]:
    if is_generated(path, content) if attributes.generated is None else attributes.generated:
        return None, "generated"
    language = language_of(path, content, size, attributes)
    if language is None:
        return None, "unknown"
    kind = type_of(language)
    if kind in COUNTED_TYPES if attributes.detectable is None else attributes.detectable:
        return language, None
    return None, None if kind in COUNTED_TYPES else kind


def language_of(path: bytes, content: bytes, size: int, attributes: Attributes) -> str | None:
    if attributes.language is not None:
        return by_alias(attributes.language)
    return detect(TextFile(path.rpartition(b"/")[2].decode(errors="replace"), content, size))
