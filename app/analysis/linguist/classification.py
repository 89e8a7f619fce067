"""Decides whether the lines of a file count, and for which language, as the statistics of Linguist do."""

from collections.abc import Sequence
from typing import NamedTuple

from app.analysis.linguist.detection import TextFile, possible_languages
from app.analysis.linguist.generated import has_generated_content, has_generated_path
from app.analysis.linguist.languages import by_alias, type_of
from app.analysis.linguist.paths import is_documentation, is_vendored
from app.analysis.linguist.time_limit import CpuTimeLimit, TimeLimitExceeded

MAX_SECONDS_PER_FILE = 0.3  # of processor time
COUNTED_TYPES = ("programming", "markup")


class Attributes(NamedTuple):
    """The Linguist attributes of a file in `.gitattributes` files. None means that an attribute is not set."""

    vendored: bool | None = None
    documentation: bool | None = None
    generated: bool | None = None
    detectable: bool | None = None
    language: str | None = None


def kind_of_path(path: bytes, attributes: Attributes) -> str | None:
    """Return the kind of `other_files` that the file belongs to whatever it contains, or None if it must be read."""
    if is_vendored(path) if attributes.vendored is None else attributes.vendored:
        return "vendored"
    if is_documentation(path) if attributes.documentation is None else attributes.documentation:
        return "documentation"
    if has_generated_path(path) if attributes.generated is None else attributes.generated:
        return "generated"
    return None


def classify(path: bytes, content: bytes, size: int, attributes: Attributes) -> tuple[str | None, str | None]:
    """Return the language that the lines of a text file count for, or the kind of `other_files` that it belongs to instead.

    `kind_of_path` has returned None before. Both are None if `.gitattributes` excludes a file of a language that usually counts.
    `content` is at most the first CONSIDERED_BYTES of the file, `size` its size in bytes.
    """
    try:
        with CpuTimeLimit(MAX_SECONDS_PER_FILE):
            return _classify(path, content, size, attributes)
    except TimeLimitExceeded:
        return None, "unknown"


def _classify(path: bytes, content: bytes, size: int, attributes: Attributes) -> tuple[str | None, str | None]:
    if attributes.generated is None and has_generated_content(path, content):
        return None, "generated"
    languages = languages_of(path, content, size, attributes)
    kinds = {type_of(language) for language in languages}
    kind = kinds.pop() if len(kinds) == 1 else "unknown"
    if len(languages) == 1 and (kind in COUNTED_TYPES if attributes.detectable is None else attributes.detectable):
        return languages[0], None
    if kind in COUNTED_TYPES:
        return None, None if len(languages) == 1 else "unknown"
    return None, kind


def languages_of(path: bytes, content: bytes, size: int, attributes: Attributes) -> Sequence[str]:
    """Return the language of a text file, no language if it is unknown, or several languages if it is ambiguous."""
    if attributes.language is not None:
        language = by_alias(attributes.language)
        return [language] if language else []
    return possible_languages(TextFile(path.rpartition(b"/")[2].decode(errors="replace"), content, size))
