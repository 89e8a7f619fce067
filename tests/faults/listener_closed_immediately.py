"""The fault: an instance closes its listening socket without accepting the queued connections first."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.server import stop_sequence
from wsgi import app


def close(_listener: Any, close: Callable[[], None], *_: Any) -> bool:
    close()
    return True


vars(stop_sequence)["drain_and_close"] = close

__all__ = ["app"]
