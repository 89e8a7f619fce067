"""An instance that closes its listening socket without a thought for those who wait in its queue."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from app.server import worker
from wsgi import app


def close(_listener: Any, close: Callable[[], None], *_: Any) -> bool:
    close()
    return True


vars(worker)["drain_and_close"] = close

__all__ = ["app"]
