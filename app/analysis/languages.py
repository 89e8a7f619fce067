"""Which language a file is written in, by its name, and which licence a text is."""

from __future__ import annotations

import tempfile
from functools import cache
from itertools import accumulate

from identify.identify import license_id
from pygments.lexers import find_lexer_class_for_filename, get_all_lexers

MAX_LICENSE_BYTES = 64 * 1024

# Where several languages share an ending, Pygments looks into the file; by the name alone it would take a rare one.
COMMON = {
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
RENAMED = {
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
    """Names of files, and endings with their dot."""
    patterns = {pattern for _, _, patterns, _ in get_all_lexers(plugins=False) for pattern in patterns}
    plain = {pattern.removeprefix("*") for pattern in patterns}
    return frozenset(pattern for pattern in plain if not set("*?[") & set(pattern)) | set(COMMON)


def language_of(path: str) -> str | None:
    name = path.rpartition("/")[2]
    if name in known_patterns() and not name.startswith("."):
        return language_of_pattern(name)
    endings = accumulate(reversed(name.split(".")[1:]), lambda ending, part: f"{part}.{ending}")
    known = [f".{ending}" for ending in endings if f".{ending}" in known_patterns()]
    return language_of_pattern(known[-1]) if known else None


@cache
def language_of_pattern(pattern: str) -> str | None:
    if pattern in COMMON:
        return COMMON[pattern]
    lexer = find_lexer_class_for_filename(f"x{pattern}" if pattern.startswith(".") else pattern)
    return RENAMED.get(lexer.name, lexer.name) if lexer else None


def spdx_id(text: bytes) -> str | None:
    """Of a licence's text, None where it is not known or was changed too much."""
    lines = (line.strip() for line in text[:MAX_LICENSE_BYTES].decode(errors="replace").splitlines())
    with tempfile.NamedTemporaryFile("w", encoding="utf-8") as file:
        # The library takes very long for empty lines, and leaves them out in the end.
        file.write("\n".join(line for line in lines if line))
        file.flush()
        return license_id(file.name)
