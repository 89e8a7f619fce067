"""Whether an address leads to ready instances, which ones, and through a proxy or directly."""

import re
import time
from collections import Counter
from collections.abc import Generator, Sequence

import requests

from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.site import Site, Unreachable

REQUESTS_PER_INSTANCE, MAX_REQUESTS, MAX_SECONDS = 4, 30, 5.0


def reach(site: Site, live: Sequence[str]) -> Generator[Finding, None, bool]:
    """Send requests until all live instances have answered or a limit is reached. Return whether to examine the site further."""
    try:
        site.resolve()
        first = site.get("/health/ready")
    except Unreachable as error:
        yield fail(f"{site.url} does not answer: {error}", _unreachable_advice(str(error)))
        return False
    if first.is_redirect:
        yield fail(f"{site.url} redirects to {_target(first)}", "Give the doctor that address")
        return False
    others, failures = _more(site, live)
    responses = [first, *others]
    site.server = first.headers.get("Server", "")
    site.is_proxied = _is_proxied(site, first)
    if not site.instances:
        yield fail(
            f"{site.url} answers {first.status_code}, but not from an instance of RepoRadar: there is no X-Instance-Id",
            "Check the address. A proxy without a reachable instance answers 502 or 504; it must pass on X-Instance-Id",
        )
        return False
    how = "through a proxy" if site.is_proxied else "directly"
    yield ok(f"{site.url} reaches {how}: {', '.join(sorted(site.instances))}")
    if site.is_proxied and (absent := sorted(set(live) - site.instances)):
        yield warn(
            f"{site.url} led none of {len(responses)} requests to {', '.join(absent)}",
            "Check that the proxy lists it among its servers; it may leave out an instance that is not ready",
        )
    if failures:
        yield fail(
            f"{site.url}: {len(failures)} of {len(responses) + len(failures)} requests failed: {failures[0]}",
            "An instance behind it is frozen or overloaded: the one that is missing above. This address is not examined further",
        )
        return False
    yield from _readiness(site, responses)
    return (yield from _has_descriptors(site))


def _unreachable_advice(reason: str) -> str:
    if "timed out" in reason:
        return "It is frozen or overloaded, or a firewall drops the packets: check its CPU and its log"
    if "has expired" in reason:
        return "Renew it: the line about its certificate says how"
    if "certificate" in reason:
        return "For a private authority: REQUESTS_CA_BUNDLE=/path/to/its/certificate.pem flask --app wsgi doctor ..."
    return "Check that a server listens there and that no firewall blocks the connection"


def _more(site: Site, live: Sequence[str]) -> tuple[list[requests.Response], list[str]]:
    """Return the responses, and the reasons of failed requests."""
    responses: list[requests.Response] = []
    failures: list[str] = []
    wanted = min(MAX_REQUESTS, REQUESTS_PER_INSTANCE * max(2, len(live)))
    deadline = time.monotonic() + MAX_SECONDS
    while len(responses) + len(failures) < wanted and time.monotonic() < deadline and not (live and set(live) <= site.instances):
        try:
            responses.append(site.get("/health/ready"))
        except Unreachable as error:
            failures.append(str(error))
    return responses, failures


def _readiness(site: Site, responses: Sequence[requests.Response]) -> Generator[Finding, None, None]:
    reasons = {
        response.headers["X-Instance-Id"]: _reasons(response)
        for response in responses
        if response.status_code == 503 and "X-Instance-Id" in response.headers
    }
    for name, reason in sorted(reasons.items()):
        if reason == "draining":
            advice = "This is normal during a restart. If it was drained on the fleet page, end the drain there"
            yield warn(f"{site.url}: {name} is draining", advice)
        else:
            advice = "See `/health/ready` answers 503 in docs/troubleshooting.md"
            yield fail(f"{site.url}: {name} is not ready: {reason}", advice)
    foreign = Counter(response.status_code for response in responses if "X-Instance-Id" not in response.headers)
    for status, count in foreign.items():
        yield fail(
            f"{site.url}: the proxy answered {count} of {len(responses)} requests itself, with {status}",
            "It still sends requests to instances that have ended or are stopping: see its log",
        )
    if not reasons and not foreign:
        yield ok(f"{site.url}: ready")


def _has_descriptors(site: Site) -> Generator[Finding, None, bool]:
    """Return whether an instance serves new connections, which need file descriptors. It answers `/health` in any case."""
    try:
        response = site.get("/health")
        status = response.json()["checks"]["open_files"]["status"]
    except (Unreachable, ValueError, KeyError, TypeError):  # other lines say that it does not answer
        return True
    if status == "pass":
        return True
    yield fail(
        f"{site.url}: {response.headers.get('X-Instance-Id')} has no file descriptors left",
        "See 'no file descriptors left' in docs/troubleshooting.md. This address is not examined further",
    )
    return False


def _reasons(response: requests.Response) -> str:
    try:
        return "; ".join(response.json()["reasons"])
    except (ValueError, KeyError, TypeError):
        return "503"


def _is_proxied(site: Site, response: requests.Response) -> bool:
    """The workers of one gunicorn count as one instance."""
    names = {re.sub(r"-w\d+$", "", name) for name in site.instances}
    return len(names) > 1 or "Via" in response.headers or not site.server.startswith("gunicorn")


def _target(response: requests.Response) -> str:
    match = re.match(r"https?://[^/?#]+", response.headers.get("Location", ""))
    return match[0] if match else "another address"
