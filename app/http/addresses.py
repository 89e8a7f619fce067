"""Addresses of pages for readers outside of the site: in shared links, mails and feeds."""

from typing import Any

from flask import current_app, request, url_for


def public_address(endpoint: str, **values: Any) -> str:
    """Return the address of an endpoint under `PUBLIC_URL`, or under the host of the request where that is not set."""
    site = current_app.config["REPORADAR"].public_url or request.host_url.rstrip("/")
    return f"{site}{url_for(endpoint, **values)}"
