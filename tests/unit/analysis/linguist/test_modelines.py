"""Modelines of Emacs and Vim, and the first line for the shell."""

from __future__ import annotations

import pytest

from app.analysis.linguist.modelines import first_lines, interpreter, last_lines, modeline


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"-*- ruby -*-\n", "ruby"),
        (b"# -*-ruby-*-\n", "ruby"),
        (b"/* -*- mode: C++ -*- */\n", "C++"),
        (b"; -*- foo: bar; Mode: lisp; baz: 1 -*-\n", "lisp"),
        (b"; -*-mode:lisp-*-\n", "lisp"),
        (b"/* vim: set ft=cpp: */\n", "cpp"),
        (b"# vim:ft=perl\n", "perl"),
        (b"# vi: noai : ft=ruby:noexpandtab\n", "ruby"),
        (b"# Vim600: syntax=python\n", "python"),
        (b"# vim<700: filetype=sh\n", "sh"),
        (b" ex: se filetype=php:\n", "php"),
        (b"1\n2\n3\n4\n5\n6\n# vim: ft=sh", "sh"),
        (b"1\r\n# vim: ft=sh\r\n", "sh"),
        (b"", None),
        (b"no modeline: ft=sh\n", None),
        (b"ex: ft=sh\n", None),
        (b"# vim: set ft=sh\n", None),  # without the colon that ends `set`
        (b"# vim: titlestring=\\ ft=sh\n", None),
        (b"1\n" * 5 + b"# vim: ft=sh\n" + b"1\n" * 5, None),
        (b'" Vimball\nUseVimball\n# vim: ft=sh\n', None),
    ],
)
def test_modeline(content: bytes, name: str | None) -> None:
    assert modeline(content) == name


@pytest.mark.parametrize(
    ("content", "name"),
    [
        (b"#!/bin/sh\n", "sh"),
        (b"#! perl\n", "perl"),
        (b"#!/usr/bin/python2.7 -u\n", "python2"),
        (b"#!/usr/bin/env node\n", "node"),
        (b"#!/usr/bin/env -S -i A=1 B=2 deno run\n", "deno"),
        (b"#!/usr/bin/env --split-string=x ruby\n", "ruby"),
        (b'#!/bin/sh\n# hack\nexec scala "$0" "$@"\n', "scala"),
        (b"#!/usr/bin/osascript\n", "osascript"),
        (b"#!/usr/bin/osascript -l JavaScript\n", None),
        (b"#!/usr/bin/env\n", None),
        (b"#!", None),
        (b"", None),
        (b" #!/bin/sh\n", None),
    ],
)
def test_interpreter(content: bytes, name: str | None) -> None:
    assert interpreter(content) == name


def test_first_lines_are_terminated() -> None:
    assert first_lines(b"1\n2\r\n3\r4", 2) == b"1\n2\n"
    assert first_lines(b"1\n2", 5) == b"1\n"
    assert first_lines(b"1", 5) == b""


def test_last_lines_exclude_the_first_line() -> None:
    assert last_lines(b"1\n2\r\n3\n", 2) == b"2\n3"
    assert last_lines(b"1\n2", 5) == b"2"
    assert last_lines(b"1", 5) == b""
