r"""Compiles regular expressions of Linguist, which are written for Ruby, to equivalent ones of Python.

Only whether a pattern occurs matters, not where. Texts are bytes. Ruby's `^` and `$` match at every line, its option `m` is
Python's `s`.
"""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property

MANY_LINES = 2000

_NEWLINE = re.compile(rb"\n")
_TOKEN = re.compile(r"\\g<\w+>|\\.|\[\^?(?:\\.|\[[^]]*\]|[^]\\])+\]|\(\?<?\w*-?\w*[>:)]|\(\?<?[=!]|.", re.DOTALL)
_OPTIONS = re.compile(r"\(\?(\w*)(?:-\w+)?\)")
_GROUP = re.compile(r"\((?:\?(\w*):)?")
_COMMENT = re.compile(r"\s#.*")
_LEADING_SPACE = re.compile(r"\A(?:\\s\*|\(\\s\*\))(?![?+])")
_LEADING_REPETITION = re.compile(r"\A(\\[swdSWD])([*+])(?![?+])")
_OTHER_SPELLINGS = {r"\z": r"\Z", r"[\s&&[^\r\n]]": r"[^\S\r\n]"}


class Text:
    """The text in which patterns are searched."""

    def __init__(self, content: bytes) -> None:
        self.content = content

    @cached_property
    def after_newline(self) -> bytes:
        """The text with a newline before it."""
        return b"\n" + self.content

    @cached_property
    def has_many_lines(self) -> bool:
        return self.content.count(b"\n") > MANY_LINES


@dataclass(frozen=True)
class Pattern:
    r"""A union of patterns.

    To find the next `\n` is much faster than to try `^` everywhere. Patterns that begin with `^` therefore begin with the newline
    before the line instead.
    """

    after_newline: tuple[re.Pattern[bytes], ...]
    anywhere: tuple[re.Pattern[bytes], ...]

    def occurs_in(self, text: Text) -> bool:
        return any(_begins_a_line(pattern, text) for pattern in self.after_newline) or any(
            pattern.search(text.content) for pattern in self.anywhere
        )


def _begins_a_line(pattern: re.Pattern[bytes], text: Text) -> bool:
    """Search for a pattern that begins with a newline.

    One search cannot be interrupted while it goes on from line to line. If each of very many lines is followed to the end of the
    text, it takes seconds.
    """
    if not text.has_many_lines:
        return pattern.search(text.after_newline) is not None
    return any(pattern.match(text.after_newline, found.start()) for found in _NEWLINE.finditer(text.after_newline))


def compile_union(patterns: Iterable[str]) -> Pattern:
    after_newline, anywhere = [], []
    for pattern in patterns:
        for flags, alternative in _alternatives("", translate(pattern)):
            if alternative.startswith("^"):
                # White space that spans lines may as well begin in its last line.
                rest = _LEADING_SPACE.sub(r"[^\\S\\n]*", alternative.removeprefix("^"))
                after_newline.append(_compile(flags, rf"\n{rest}"))
            else:
                anywhere.append(_compile(flags, _LEADING_REPETITION.sub(_shortest, alternative)))
    return Pattern(tuple(after_newline), tuple(anywhere))


def _shortest(repetition: re.Match[str]) -> str:
    r"""Replace `\s*` at the beginning by nothing and `\w+` by `\w`: what is found may as well begin later."""
    return repetition[1] if repetition[2] == "+" else ""


def _compile(flags: str, pattern: str) -> re.Pattern[bytes]:
    return re.compile((f"(?{flags}:{pattern})" if flags else pattern).encode(), re.MULTILINE)


@dataclass
class _OpenGroup:
    name: str | None
    begin: int  # index of its first part
    options: int = 0  # groups to close with it, made of options such as `(?i)`


def translate(pattern: str) -> str:
    """Return a pattern in the syntax of Python, without comments, named groups and options in the middle."""
    is_verbose = (options := _OPTIONS.match(pattern)) is not None and "x" in options[1]
    found: list[str] = []
    bodies: dict[str, str] = {}
    groups = [_OpenGroup(None, 0)]
    for part in _TOKEN.findall(_COMMENT.sub("", pattern) if is_verbose else pattern):
        if is_verbose and part.isspace():
            continue
        if options := _OPTIONS.fullmatch(part):
            if flags := options[1].replace("m", "s").replace("x", ""):
                found.append(f"(?{flags}:")
                groups[-1].options += 1
        elif part.startswith("("):
            name = part[3:-1] if part.startswith("(?<") and part.endswith(">") else None
            found.append("(" if name else part)
            groups.append(_OpenGroup(name, len(found)))
        elif part == ")":
            group = groups.pop()
            found.append(")" * group.options)
            if group.name:
                bodies[group.name] = "".join(found[group.begin :])
            found.append(part)
        elif part.startswith(r"\g<"):
            found.append(f"(?:{bodies[part[3:-1]]})")
        else:
            found.append(_OTHER_SPELLINGS.get(part, part))
    return "".join(found) + ")" * groups[0].options


def _alternatives(flags: str, pattern: str) -> Iterator[tuple[str, str]]:
    """Yield the flags and the text of each alternative of a pattern. `((?i:a|b)|c)` has three: `a`, `b` and `c`."""
    depth, begin, end = 0, 0, 0
    for part in _TOKEN.findall(f"{pattern}|"):
        if part == "|" and depth == 0:
            alternative = pattern[begin:end]
            if begin == 0 and end == len(pattern) and (group := _GROUP.match(pattern)) and _is_one_group(pattern):
                yield from _alternatives(flags + (group[1] or ""), pattern[group.end() : -1])
            elif begin == 0 and end == len(pattern):
                yield flags, alternative
            else:
                yield from _alternatives(flags, alternative)
            begin = end + 1
        depth += part.startswith("(") - (part == ")")
        end += len(part)


def _is_one_group(pattern: str) -> bool:
    """Return whether the parenthesis that begins the pattern is closed at its end."""
    depth, end = 0, 0
    for part in _TOKEN.findall(pattern):
        depth += part.startswith("(") - (part == ")")
        end += len(part)
        if depth == 0:
            break
    return end == len(pattern)
