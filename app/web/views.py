"""The pages."""

from __future__ import annotations

from flask import Blueprint

blueprint = Blueprint("web", __name__)


@blueprint.get("/")
def home() -> str:
    return "RepoRadar"
