"""RepoRadar watches git repositories. `create_app` builds the application."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from flask import Flask

    from app.core.config import Config


def create_app(config: Config | None = None) -> Flask:
    """Build the application. Background tasks start with `app.extensions["lifecycle"].start()`, which the web process calls."""
    # Imported here, because the process of each analysis imports this package too: in 0.2 s instead of 1.5 s.
    from app import factory
    from app.core.config import from_environment

    return factory.build(config or from_environment())
