"""What a proxy passes on of a request, and what it must not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from ipaddress import ip_address

from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.site import Site, Unreachable
from app.operations.doctor.visitor import FORGED_ADDRESS, Login

FOREIGN_ORIGIN = "https://doctor.invalid"
NOTHING = "/api/auth/logout"  # without a session it does nothing, and answers 204


def examine(site: Site, production: bool) -> Iterator[Finding]:
    """Without a session."""
    try:
        yield from _origins(site)
        yield from _metrics(site)
    except Unreachable as error:
        yield fail(f"{site.url}: no more answer: {error}", "It answered a moment ago: look at its log")
    if production and site.scheme == "http" and site.is_proxied:
        yield fail(
            f"{site.url}: nobody can sign in over plain http: the cookies of production are Secure",
            "Examine the https address; for a trial over http set APP_ENV=development",
        )
    if not production and site.scheme == "https":
        yield warn(f"{site.url}: https, but the cookies are not Secure (APP_ENV=development)", "Set APP_ENV=production")


def client_address(plain: Login, forged: Login, trusted_proxies: int) -> Iterator[Finding]:
    """`forged`: signed in with an X-Forwarded-For of our own invention."""
    site = plain.site
    seen, seen_of_forgery = plain.address_seen(), forged.address_seen()
    if seen is None or seen_of_forgery is None:
        yield warn(f"{site.url}: the client address was not examined: the session was not known", "Mend the sessions first")
    elif seen_of_forgery == FORGED_ADDRESS:
        yield _believed(site, trusted_proxies)
    else:
        yield _passed(site, seen, trusted_proxies)


def _believed(site: Site, trusted_proxies: int) -> Finding:
    if not site.is_proxied:
        return ok(
            f"{site.url}: believes X-Forwarded-For (TRUSTED_PROXIES={trusted_proxies}); only the proxy may reach it directly"
        )
    return fail(
        f"{site.url}: an X-Forwarded-For that a client forges is believed",
        "The proxy has to write it anew or add to it (nginx: proxy_set_header X-Forwarded-For $remote_addr),"
        f" and TRUSTED_PROXIES must be the number of proxies, no more (here it is {trusted_proxies})",
    )


def _passed(site: Site, seen: str, trusted_proxies: int) -> Finding:
    own = site.own_address
    if seen == own or not own:
        return ok(f"{site.url}: the client address arrives ({seen}), a forged X-Forwarded-For is not believed")
    advice = (
        "The proxy has to send X-Forwarded-For, and TRUSTED_PROXIES be the number of proxies"
        f" (here it is {trusted_proxies}); until then all users share one rate limit"
    )
    text = f"{site.url}: the client address does not arrive: {seen} is seen instead of {own}"
    if not _translated(own, seen):
        return fail(text, advice)
    return warn(f"{text}; rightly so, if a NAT (Docker, a router) stands in between", advice)


def _translated(own: str, seen: str) -> bool:
    """Whether a NAT may have made the one of the other: a published port of a container, a router towards the internet."""
    try:
        ours, theirs = ip_address(own), ip_address(seen)
    except ValueError:
        return False
    return (ours.is_loopback and not theirs.is_loopback) or (ours.is_private and theirs.is_global)


def _origins(site: Site) -> Iterator[Finding]:
    own = site.post(NOTHING, Origin=site.origin)
    if own.status_code == 403:
        yield _own_refused(site)
    elif own.ok:
        yield ok(f"{site.url}: a request of its own pages is accepted (Origin, Host with its port)")
    else:
        yield fail(f"{site.url}: POST {NOTHING} was answered {own.status_code}", "Look for it in the logs")
    foreign = site.post(NOTHING, Origin=FOREIGN_ORIGIN)
    if foreign.status_code == 403:
        yield ok(f"{site.url}: a request of another site's pages is refused")
    else:
        yield fail(
            f"{site.url}: a request of another site's pages was answered {foreign.status_code} instead of 403",
            "The proxy must leave Origin and Sec-Fetch-Site alone; ALLOWED_ORIGINS should name your own sites only",
        )


def _own_refused(site: Site) -> Finding:
    text = f"{site.url}: a request of its own pages is refused"
    without_port = re.sub(r":\d+$", "", site.origin)
    if without_port != site.origin and site.post(NOTHING, Origin=without_port).ok:
        return fail(f"{text}: the Host loses its port", "nginx: proxy_set_header Host $http_host (not $host)")
    other_scheme = re.sub(r"^https?", "http" if site.scheme == "https" else "https", site.origin)
    if site.post(NOTHING, Origin=other_scheme).ok:
        return fail(
            f"{text}: the instance takes it for {other_scheme.partition(':')[0]}",
            "The proxy has to send X-Forwarded-Proto, and TRUSTED_PROXIES count it",
        )
    return fail(
        f"{text}: the Host does not arrive", "The proxy has to pass Host unchanged; otherwise put the origin into ALLOWED_ORIGINS"
    )


def _metrics(site: Site) -> Iterator[Finding]:
    if not site.is_proxied:
        return
    answer = site.get("/metrics")
    if answer.ok and "reporadar_" in answer.text:
        yield fail(
            f"{site.url}: /metrics can be read through the proxy", "Close it there (nginx: location = /metrics { return 404; })"
        )
    else:
        yield ok(f"{site.url}: /metrics is closed ({answer.status_code})")
