"""Addresses of pages for readers outside of the site: in shared links, mails and feeds."""

from typing import Any

from flask import current_app, request, url_for


def public_site() -> str:
    """Return `PUBLIC_URL`, or the address of the request's host where that is not set, without a slash at the end."""
    configured: str | None = current_app.config["REPORADAR"].public_url
    return configured or request.host_url.rstrip("/")


def public_address(endpoint: str, **values: Any) -> str:
    """Return the address of an endpoint under `PUBLIC_URL`, or under the host of the request where that is not set."""
    return f"{public_site()}{url_for(endpoint, **values)}"
