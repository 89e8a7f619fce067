"""RepoRadar watches git repositories. `create_app` builds the application."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.core.config import Config


# redis-py imports the SDK of OpenTelemetry if it is installed, for metrics that this application does not use. That would cost
# each process 3 MB and 0.06 s. `app.telemetry` lifts this.
sys.modules.setdefault("opentelemetry", None)  # type: ignore[arg-type]


def create_app(config: Config | None = None) -> Flask:
    """Build the application. Background tasks start with `app.extensions["lifecycle"].start()`, which the web process calls."""
    # Imported here, because the process of each analysis imports this package too: in 0.2 s instead of 1.5 s.
    from app import factory
    from app.core.config import from_environment

    return factory.build(config or from_environment())
