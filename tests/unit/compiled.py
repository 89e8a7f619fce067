"""Compiled rules and templates are kept for the next application, because unit tests create hundreds of applications."""

from __future__ import annotations

from types import CodeType
from typing import Any

import pytest
from flask import Flask
from jinja2 import BytecodeCache
from jinja2.bccache import Bucket
from werkzeug.routing import Rule


class TemplateCode(BytecodeCache):
    """The code of compiled templates, by name and content."""

    def __init__(self) -> None:
        self._codes: dict[tuple[str, str], CodeType | None] = {}

    def load_bytecode(self, bucket: Bucket) -> None:
        bucket.code = self._codes.get((bucket.key, bucket.checksum))

    def dump_bytecode(self, bucket: Bucket) -> None:
        self._codes[bucket.key, bucket.checksum] = bucket.code


def keep_compiled_templates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Flask, "jinja_options", {**Flask.jinja_options, "bytecode_cache": TemplateCode()})


def keep_compiled_rules(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the functions that build URLs. To compile them takes most of the time of `create_app`."""
    compile_builder = Rule._compile_builder
    builders: dict[tuple[object, ...], Any] = {}

    def compile_once(rule: Rule, append_unknown: bool = True) -> Any:
        key = (rule.rule, rule.subdomain, rule.host, repr(rule.defaults), append_unknown)
        if key not in builders:
            builders[key] = compile_builder(rule, append_unknown)
        return builders[key]

    monkeypatch.setattr(Rule, "_compile_builder", compile_once)
