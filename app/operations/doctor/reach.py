"""Whether an address leads to instances that are ready, which ones, and what stands in between."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Generator, Sequence

import requests

from app.operations.doctor.findings import Finding, fail, ok, warn
from app.operations.doctor.site import Site, Unreachable

VISITS_PER_INSTANCE, MOST_VISITS, VISITING_SECONDS = 4, 30, 5.0


def reach(site: Site, living: Sequence[str]) -> Generator[Finding, None, bool]:
    """Asks until all who live have answered, or long enough. Returns whether it is worth to ask on."""
    try:
        site.find()
        first = site.get("/health/ready")
    except Unreachable as error:
        advice = "Is something listening there, and does no firewall stand in between?"
        if "in time" in str(error):
            advice = "It is frozen or overloaded, or a firewall drops what is sent to it: look at its processor and its log"
        if "certificate" in str(error):
            advice = "For an authority of your own: REQUESTS_CA_BUNDLE=/path/to/its/certificate.pem flask --app wsgi doctor ..."
        yield fail(f"{site.url} does not answer: {error}", advice)
        return False
    if first.is_redirect:
        yield fail(f"{site.url} leads on to {_place(first)}", "Give the doctor that address")
        return False
    others, silences = _more(site, living)
    answers = [first, *others]
    site.server = first.headers.get("Server", "")
    site.is_proxied = _is_proxied(site, first)
    if not site.instances:
        yield fail(
            f"{site.url} answers {first.status_code}, but no instance of RepoRadar does: there is no X-Instance-Id",
            "Is this the right address? A proxy that has no instance left answers 502 or 504; it must leave X-Instance-Id alone",
        )
        return False
    kind = "through a proxy" if site.is_proxied else "directly"
    yield ok(f"{site.url} reaches {kind}: {', '.join(sorted(site.instances))}")
    if site.is_proxied and (absent := sorted(set(living) - site.instances)):
        yield warn(
            f"{site.url} never led to {', '.join(absent)}, in {len(answers)} requests",
            "Is it among the servers of the proxy? One that is not ready is left out rightly",
        )
    if silences:
        yield fail(
            f"{site.url}: {len(silences)} of {len(answers) + len(silences)} requests got no answer: {silences[0]}",
            "An instance behind it is frozen or overloaded: the one that is missing above. Nothing more is asked here",
        )
        return False
    yield from _readiness(site, answers)
    return True


def _more(site: Site, living: Sequence[str]) -> tuple[list[requests.Response], list[str]]:
    """Answers, and why there was none."""
    answers: list[requests.Response] = []
    silences: list[str] = []
    wanted = min(MOST_VISITS, VISITS_PER_INSTANCE * max(2, len(living)))
    deadline = time.monotonic() + VISITING_SECONDS
    while (
        len(answers) + len(silences) < wanted and time.monotonic() < deadline and not (living and set(living) <= site.instances)
    ):
        try:
            answers.append(site.get("/health/ready"))
        except Unreachable as error:
            silences.append(str(error))
    return answers, silences


def _readiness(site: Site, answers: Sequence[requests.Response]) -> Generator[Finding, None, None]:
    reasons = {
        answer.headers["X-Instance-Id"]: _reasons(answer)
        for answer in answers
        if answer.status_code == 503 and "X-Instance-Id" in answer.headers
    }
    for name, reason in sorted(reasons.items()):
        if reason == "draining":
            yield warn(
                f"{site.url}: {name} is stopping", "As in any restart. If it was drained on the fleet page, bring it back there"
            )
        else:
            yield fail(f"{site.url}: {name} is not ready: {reason}", "See `/health/ready` answers 503 in docs/troubleshooting.md")
    strange = Counter(answer.status_code for answer in answers if "X-Instance-Id" not in answer.headers)
    for status, count in strange.items():
        yield fail(
            f"{site.url}: {count} of {len(answers)} requests were answered {status} by what stands before the instances",
            "It still sends requests to instances that are gone or stopping: see its log",
        )
    if not reasons and not strange:
        yield ok(f"{site.url}: ready")


def _reasons(answer: requests.Response) -> str:
    try:
        return "; ".join(answer.json()["reasons"])
    except (ValueError, KeyError, TypeError):
        return "503"


def _is_proxied(site: Site, answer: requests.Response) -> bool:
    """The workers of one gunicorn count as one."""
    names = {re.sub(r"-w\d+$", "", name) for name in site.instances}
    return len(names) > 1 or "Via" in answer.headers or not site.server.startswith("gunicorn")


def _place(answer: requests.Response) -> str:
    match = re.match(r"https?://[^/?#]+", answer.headers.get("Location", ""))
    return match[0] if match else "another address"
