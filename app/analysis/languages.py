"""Which language a file is in, by its name; and which licence a text is."""

from __future__ import annotations

import functools
import tempfile
from pathlib import PurePosixPath

from identify import identify
from pygments.lexers import find_lexer_class_for_filename

MAX_LICENSE_BYTES = 64 * 1024

# Where Pygments has several for one ending and takes the rarer one, or has a name for its own purposes.
BY_SUFFIX = {
    ".pl": "Perl",
    ".sql": "SQL",
    ".fs": "F#",
    ".r": "R",
    ".R": "R",
    ".csv": "CSV",
    ".svg": "SVG",
    ".txt": "Text",
    ".ipynb": "Jupyter Notebook",
    ".mod": None,
    ".m4": "M4",
    ".v": "Verilog",
    ".l": "Lex",
    ".y": "Yacc",
}
BY_NAME = {"go.mod": "Go Module", "Jenkinsfile": "Groovy", "configure": "Shell"}
NAMES = {"Docker": "Dockerfile", "Bash": "Shell", "Text only": "Text", "HTML + Angular2": "HTML", "Standard ML": "SML"}


def language_of(path: str) -> str | None:
    name = PurePosixPath(path).name
    suffix = PurePosixPath(name).suffix
    if name in BY_NAME:
        return BY_NAME[name]
    return BY_SUFFIX[suffix] if suffix in BY_SUFFIX else _by_pygments(f"x{suffix}" if suffix else name)


@functools.lru_cache(maxsize=4096)
def _by_pygments(name: str) -> str | None:
    lexer = find_lexer_class_for_filename(name)
    return NAMES.get(lexer.name, lexer.name) if lexer else None


def license_of(text: bytes) -> str | None:
    """The SPDX identifier of a text that is the licence, or nearly so."""
    with tempfile.NamedTemporaryFile(suffix=".txt") as file:
        file.write(text.decode(errors="replace").encode())
        file.flush()
        found: str | None = identify.license_id(file.name)
    return found
