"""Reads the language that a file declares for Emacs, Vim or the shell. Ported from modeline.rb and shebang.rb of Linguist."""

import re
from itertools import islice

_HEADER_LINES = _FOOTER_LINES = 5

_LINE_END = re.compile(rb"\r\n|\r|\n")
_EMACS = re.compile(
    rb"""
    -\*-
    (?:
      [ \t]* (?= [^:;\s]+ [ \t]* -\*- )      # -*- ruby -*-
      |
      (?: .*?[ \t;] | (?<=-\*-) )            # -*- foo:bar; mode: ruby; -*-
      [ \t]* mode [ \t]* : [ \t]*
    )
    ([^:;\s]+)
    (?= [ \t;] | (?<![-*]) -\*- )
    .*? -\*-
    """,
    re.VERBOSE | re.IGNORECASE,
)
_VIM = re.compile(
    rb"""
    (?: (?:^|[ \t]) (?:vi|Vi(?=m)) (?: m[<=>]?[0-9]+ | m )? | [ \t]ex )
    (?= : (?=[ \t]* set? [ \t] [^\r\n:]+ :) | : (?![ \t]* set? [ \t]) )
    (?:
      (?: [ \t]* : [ \t]* | [ \t] ) \w*
      (?: [ \t]*= (?: [^\\\s] | \\. )* )?
    )*
    [ \t:] (?:filetype|ft|syntax) [ \t]*= (\w+) (?=$|\s|:)
    """,
    re.VERBOSE | re.MULTILINE,
)
_MAY_BE_VIM = re.compile(rb"[ \t:](?:filetype|ft|syntax)[ \t]*=\w")

_INTERPRETER = re.compile(rb"#!\s*\S+")
_ENV_ARGUMENTS = re.compile(rb"\s+(?:(?:(?:-[i0uCSv]*|--\S+)\s+)+|(?:\S+=\S+\s+)+)*")
_WORD = re.compile(rb"\S+")
_EXEC = re.compile(rb"""exec (\w+)[\s"']+\$0[\s"']+\$@""")


def first_lines(content: bytes, count: int) -> bytes:
    """Return the first lines that are terminated, at most `count`, each with a newline."""
    ends = [found.end() for found in islice(_LINE_END.finditer(content), count)]
    return _LINE_END.sub(b"\n", content[: ends[-1]]) if ends else b""


def last_lines(content: bytes, count: int) -> bytes:
    """Return the last lines, at most `count`, without the first line of the content and without a newline at the end."""
    position, begin = len(content), len(content)
    has_newline_at_end = False
    while count and (found := max(content.rfind(b"\n", 0, position), content.rfind(b"\r", 0, position))) >= 0:
        begin = found + (2 if content.startswith(b"\r\n", found) else 1)
        if position == len(content) and begin == position:
            has_newline_at_end = True
        else:
            count -= 1
        position = found
    return _LINE_END.sub(b"\n", content[begin:]).removesuffix(b"\n" if has_newline_at_end else b"")


def modeline(content: bytes) -> str | None:
    """Return the name of the language in a modeline of Emacs or Vim."""
    header = first_lines(content, _HEADER_LINES)
    if b"UseVimball" in header:
        return None
    text = header + last_lines(content, _FOOTER_LINES)
    found = _EMACS.search(text) if b"-*-" in text else None
    if found is None and _MAY_BE_VIM.search(text):
        found = _VIM.search(text)
    return found[1].decode(errors="replace") if found else None


def interpreter(content: bytes) -> str | None:
    """Return the name of the program that the first line says is to execute the file, without its minor version."""
    line = content.partition(b"\n")[0]
    if not (found := _INTERPRETER.match(line)):
        return None
    script, end = found[0].rpartition(b"/")[2], found.end()
    if script == b"env":
        arguments = _ENV_ARGUMENTS.match(line, end)
        name = _WORD.match(line, arguments.end() if arguments else end)
        if not name:
            return None
        script, end = name[0], name.end()
    script = re.sub(rb"^#!\s*", b"", re.sub(rb"\.\d+$", b"", script))
    if script == b"sh" and (executed := next(filter(None, map(_EXEC.search, content.split(b"\n", 5)[:5])), None)):
        script = executed[1]
    if script == b"osascript" and b"-l" in line[end:]:
        return None  # AppleScript or another language of macOS, which is no interpreter
    return script.rpartition(b"/")[2].decode(errors="replace")
