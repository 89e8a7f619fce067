"""Recognises programming languages by file names, and licences by their text."""

import tempfile
from functools import cache
from itertools import accumulate

from identify.identify import license_id
from pygments.lexers import find_lexer_class_for_filename, get_all_lexers

MAX_LICENSE_BYTES = 64 * 1024

# File name extensions that several languages share. Pygments would need the content, and by name alone chooses a rare language.
AMBIGUOUS = {
    ".pl": "Perl",
    ".pm": "Perl",
    ".t": "Perl",
    ".r": "R",
    ".R": "R",
    ".fs": "F#",
    ".sql": "SQL",
    ".inc": None,
    ".s": "Assembly",
    ".S": "Assembly",
    ".asm": "Assembly",
    ".ipynb": "Jupyter Notebook",
    ".svelte": "Svelte",
    ".txt": None,
    ".tmpl": None,
    ".cls": None,
    "todo.txt": None,
    "go.mod": None,
}
DISPLAY_NAMES = {
    "Bash": "Shell",
    "Batchfile": "Batch",
    "verilog": "Verilog",
    "Docker": "Dockerfile",
    "EmacsLisp": "Emacs Lisp",
    "LessCss": "Less",
    "Nimrod": "Nim",
}


@cache
def known_patterns() -> frozenset[str]:
    """Return all known file names, and extensions with their dot."""
    patterns = {pattern for _, _, patterns, _ in get_all_lexers(plugins=False) for pattern in patterns}
    plain = {pattern.removeprefix("*") for pattern in patterns}
    return frozenset(pattern for pattern in plain if not set("*?[") & set(pattern)) | set(AMBIGUOUS)


def language_of(path: str) -> str | None:
    name = path.rpartition("/")[2]
    if name in known_patterns() and not name.startswith("."):
        return language_of_pattern(name)
    extensions = accumulate(reversed(name.split(".")[1:]), lambda extension, part: f"{part}.{extension}")
    known = [f".{extension}" for extension in extensions if f".{extension}" in known_patterns()]
    return language_of_pattern(known[-1]) if known else None


@cache
def language_of_pattern(pattern: str) -> str | None:
    if pattern in AMBIGUOUS:
        return AMBIGUOUS[pattern]
    lexer = find_lexer_class_for_filename(f"x{pattern}" if pattern.startswith(".") else pattern)
    return DISPLAY_NAMES.get(lexer.name, lexer.name) if lexer else None


def spdx_id(text: bytes) -> str | None:
    """Return the SPDX identifier of the text of a licence, or None if the text is unknown or was changed too much."""
    lines = (line.strip() for line in text[:MAX_LICENSE_BYTES].decode(errors="replace").splitlines())
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        # The library ignores empty lines, but many of them would make it very slow.
        file.write("\n".join(line for line in lines if line))
        file.flush()
        return license_id(file.name)
