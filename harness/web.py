"""HTTP requests of tests: without proxies, and with one shared TLS context, because loading the certificates takes 30 ms."""

from __future__ import annotations

import ssl
from typing import Any

import httpx

from harness.processes import PATIENCE_SECONDS

TLS = ssl.create_default_context()
DEFAULTS: dict[str, Any] = {"trust_env": False, "verify": TLS, "timeout": PATIENCE_SECONDS}


def client(**options: Any) -> httpx.Client:
    return httpx.Client(**DEFAULTS | options)


def get(url: str, **options: Any) -> httpx.Response:
    return httpx.get(url, **DEFAULTS | options)


def post(url: str, **options: Any) -> httpx.Response:
    return httpx.post(url, **DEFAULTS | options)
