"""Which parts of a request a proxy passes on, and which it must not."""

import re
from collections.abc import Iterator
from ipaddress import ip_address

from app.operations.doctor.client import FORGED_ADDRESS, SignedInSession
from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.site import Site, Unreachable

FOREIGN_ORIGIN = "https://doctor.invalid"
HARMLESS_POST = "/api/auth/logout"  # without a session it does nothing and answers 204


def examine(site: Site, production: bool) -> Iterator[Finding]:
    """Run the checks that need no session."""
    try:
        yield from _origins(site)
        yield from _metrics(site)
    except Unreachable as error:
        yield fail(f"{site.url}: it stopped answering: {error}", "It answered a moment ago: check its log")
    if production and site.scheme == "http" and site.is_proxied:
        yield fail(
            f"{site.url}: nobody can sign in over plain http, because production cookies are Secure",
            "Give the doctor the https address, or set APP_ENV=development to try it over http",
        )
    if not production and site.scheme == "https":
        yield warn(f"{site.url}: https, but the cookies are not Secure (APP_ENV=development)", "Set APP_ENV=production")


def client_address(plain: SignedInSession, forged: SignedInSession, trusted_proxies: int) -> Iterator[Finding]:
    """Compare two sessions: `forged` was opened with a forged X-Forwarded-For."""
    site = plain.site
    seen, seen_of_forged = plain.client_address(), forged.client_address()
    if seen is None or seen_of_forged is None:
        text = f"{site.url}: the client address was not examined, because the session is not known"
        yield warn(text, "Fix the problem with the sessions first")
    elif seen_of_forged == FORGED_ADDRESS:
        yield _trusted_forgery(site, trusted_proxies)
    else:
        yield _compare_addresses(site, seen, trusted_proxies)


def _trusted_forgery(site: Site, trusted_proxies: int) -> Finding:
    if not site.is_proxied:
        return ok(f"{site.url}: trusts X-Forwarded-For (TRUSTED_PROXIES={trusted_proxies}); only the proxy may reach it directly")
    return fail(
        f"{site.url}: a client can forge X-Forwarded-For",
        "Let the proxy replace or extend the header (nginx: proxy_set_header X-Forwarded-For $remote_addr),"
        f" and set TRUSTED_PROXIES to the number of proxies, no more (here it is {trusted_proxies})",
    )


def _compare_addresses(site: Site, seen: str, trusted_proxies: int) -> Finding:
    own = site.own_address
    if seen == own or not own:
        return ok(f"{site.url}: the client address arrives ({seen}), a forged X-Forwarded-For is ignored")
    advice = (
        "Let the proxy send X-Forwarded-For, and set TRUSTED_PROXIES to the number of proxies"
        f" (here it is {trusted_proxies}); until then all users share one rate limit"
    )
    text = f"{site.url}: the client address does not arrive: the instance sees {seen} instead of {own}"
    if not _may_be_nat(own, seen):
        return fail(text, advice)
    return warn(f"{text}; this is correct if a NAT (Docker, a router) is in between", advice)


def _may_be_nat(own: str, seen: str) -> bool:
    """Return whether a NAT explains the difference: a published port of a container, or a router to the internet."""
    try:
        ours, theirs = ip_address(own), ip_address(seen)
    except ValueError:
        return False
    return (ours.is_loopback and not theirs.is_loopback) or (ours.is_private and theirs.is_global)


def _origins(site: Site) -> Iterator[Finding]:
    own = site.post(HARMLESS_POST, Origin=site.origin)
    if own.status_code == 403:
        yield _own_origin_rejected(site)
    elif own.status_code == 400:
        yield fail(f"{site.url}: requests for this host are refused", f"Add {site.host} to TRUSTED_HOSTS")
        return  # before the origin is examined
    elif own.ok:
        yield ok(f"{site.url}: a request of its own pages is accepted (Origin, Host with its port)")
    else:
        yield fail(f"{site.url}: POST {HARMLESS_POST} was answered with {own.status_code}", "Find it in the logs")
    foreign = site.post(HARMLESS_POST, Origin=FOREIGN_ORIGIN)
    if foreign.status_code == 403:
        yield ok(f"{site.url}: a request of another site's pages is rejected")
    else:
        yield fail(
            f"{site.url}: a request of another site's pages was answered with {foreign.status_code} instead of 403",
            "The proxy must not change Origin and Sec-Fetch-Site; ALLOWED_ORIGINS should list only your own sites",
        )


def _own_origin_rejected(site: Site) -> Finding:
    text = f"{site.url}: a request of its own pages is rejected"
    without_port = re.sub(r":\d+$", "", site.origin)
    if without_port != site.origin and site.post(HARMLESS_POST, Origin=without_port).ok:
        return fail(f"{text}: the Host header loses its port", "nginx: proxy_set_header Host $http_host (not $host)")
    other_scheme = re.sub(r"^https?", "http" if site.scheme == "https" else "https", site.origin)
    if site.post(HARMLESS_POST, Origin=other_scheme).ok:
        return fail(
            f"{text}: the instance takes it for {other_scheme.partition(':')[0]}",
            "Let the proxy send X-Forwarded-Proto, and count it in TRUSTED_PROXIES",
        )
    return fail(
        f"{text}: the Host header does not arrive",
        "Let the proxy pass on Host unchanged, or add the origin to ALLOWED_ORIGINS",
    )


def _metrics(site: Site) -> Iterator[Finding]:
    if not site.is_proxied:
        return
    response = site.get("/metrics")
    if response.ok and "reporadar_" in response.text:
        yield fail(f"{site.url}: /metrics is public", "Block it in the proxy (nginx: location = /metrics { return 404; })")
    else:
        yield ok(f"{site.url}: /metrics is closed ({response.status_code})")
