"""Reads the language that a file declares for Emacs, Vim or the shell. Ported from modeline.rb and shebang.rb of Linguist."""

import re

_LINES = 5  # at the beginning and at the end that may contain a modeline

_EMACS = rb"""(?xi)
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
"""
_VIM = rb"""(?xm)
    (?: (?:^|[ \t]) (?:vi|Vi(?=m)) (?: m[<=>]?[0-9]+ | m )? | [ \t]ex )
    (?= : (?=[ \t]* set? [ \t] [^\r\n:]+ :) | : (?![ \t]* set? [ \t]) )
    (?:
      (?: [ \t]* : [ \t]* | [ \t] ) \w*
      (?: [ \t]*= (?: [^\\\s] | \\. )* )?
    )*
    [ \t:] (?:filetype|ft|syntax) [ \t]*= (\w+) (?=$|\s|:)
"""
_FILE_TYPE = re.compile(rb"[ \t:](?:filetype|ft|syntax)[ \t]*=\w")  # its end, which is found more quickly

_ENV_ARGUMENTS = rb"\s+(?:(?:(?:-[i0uCSv]*|--\S+)\s+)+|(?:\S+=\S+\s+)+)*"
_EXEC = rb"""exec (\w+)[\s"']+\$0[\s"']+\$@"""


def first_lines(content: bytes, count: int) -> bytes:
    """Return the first lines that are terminated, at most `count`."""
    *lines, _ = _with_line_feeds(content).split(b"\n", count)
    return b"".join(line + b"\n" for line in lines)


def last_lines(content: bytes, count: int) -> bytes:
    """Return the last lines, at most `count`, but never the first line of the content."""
    _, *lines = _with_line_feeds(content).removesuffix(b"\n").rsplit(b"\n", count)
    return b"\n".join(lines)


def _with_line_feeds(content: bytes) -> bytes:
    return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n") if b"\r" in content else content


def modeline(content: bytes) -> str | None:
    """Return the name of the language in a modeline of Emacs or Vim."""
    header = first_lines(content, _LINES)
    if b"UseVimball" in header:
        return None
    text = header + last_lines(content, _LINES)
    found = re.search(_EMACS, text) if b"-*-" in text else None
    if found is None and (b"vi" in text or b"Vi" in text or b"ex:" in text) and _FILE_TYPE.search(text):
        found = re.search(_VIM, text)
    return found[1].decode(errors="replace") if found else None


def interpreter(content: bytes) -> str | None:
    """Return the name of the program that the first line says is to execute the file, without its minor version."""
    if not content.startswith(b"#!"):
        return None
    line = content.partition(b"\n")[0]
    if not (found := re.match(rb"#!\s*\S+", line)):
        return None
    script, rest = found[0].rpartition(b"/")[2], line[found.end() :]
    if script == b"env":
        words = re.sub(rb"\A" + _ENV_ARGUMENTS, b"", rest).split(None, 1)
        if not words:
            return None
        script, rest = words[0], words[-1]
    script = re.sub(rb"^#!\s*|\.\d+$", b"", script)
    if script == b"sh" and (executed := re.search(_EXEC, b"\n".join(content.split(b"\n", 5)[:5]))):
        script = executed[1]
    if script == b"osascript" and b"-l" in rest:
        return None  # AppleScript or another language of macOS, which is no interpreter
    return script.rpartition(b"/")[2].decode(errors="replace")
