"""Bots are recognised by the names that programs use, and people are not taken for bots."""

from __future__ import annotations

from array import array
from collections import Counter

import pytest

from app.analysis.people import MAX_SHARES, Commits, count, is_bot, smallest_majority

BOTS = [
    b"dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>",
    b"dependabot-preview[bot] <support@dependabot.com>",
    b"renovate[bot] <bot@renovateapp.com>",
    b"Renovate Bot <bot@renovateapp.com>",
    b"Mend Renovate <bot@renovateapp.com>",
    b"WhiteSource Renovate <bot@renovateapp.com>",
    b"GitHub Actions <actions@github.com>",
    b"GitHub Action <action@github.com>",
    b"github-actions <41898282+github-actions[bot]@users.noreply.github.com>",
    b"copilot-swe-agent[bot] <198982749+Copilot@users.noreply.github.com>",
    b"pre-commit-ci[bot] <66853113+pre-commit-ci[bot]@users.noreply.github.com>",
    b"pre-commit-ci <no-reply@pre-commit.ci>",
    b"Hosted Weblate <hosted@weblate.org>",
    b"Weblate (bot) <hosted@weblate.org>",
    b"Greenkeeper <support@greenkeeper.io>",
    b"greenkeeper[bot] <greenkeeper[bot]@users.noreply.github.com>",
    b"snyk-bot <snyk-bot@snyk.io>",
    b"skia-flutter-autoroll <x@skia.org>",
    b"A Builder <builder@chops-service-accounts.iam.gserviceaccount.com>",
    b"OpenStack Proposal Bot <infra@lists.openstack.org>",
    b"Scala Steward <me@scala-steward.org>",
    b"atom-bot <cj+atom-bot@github.com>",
    b"README Bot <35302948+codetriage-readme-bot@users.noreply.github.com>",
    b"Kira Security Bot <bot@kira.security>",
    b"semantic-release-bot <semantic-release-bot@martynus.net>",
    b"k8s-ci-robot <k8s-ci-robot@users.noreply.github.com>",
    b"Kubernetes Prow Robot <20407524+k8s-ci-robot@users.noreply.github.com>",
    b"rust-bors[bot] <122020455+rust-bors[bot]@users.noreply.github.com>",
    b"bors <bors@rust-lang.org>",
    b"mergify[bot] <37929162+mergify[bot]@users.noreply.github.com>",
    b"allcontributors[bot] <46447321+allcontributors[bot]@users.noreply.github.com>",
    b"translatewiki.net <l10n-bot@translatewiki.net>",
    b"Travis CI <builds@travis-ci.org>",
    b"CI Bot <ci@example.org>",
    b"GitLab Bot <gitlab-bot@gitlab.com>",
    b"gitter-badger <badger@gitter.im>",
    b"PrometheusBot <prometheus-team@googlegroups.com>",
    b"Copilot <198982749+Copilot@users.noreply.github.com>",
    b"Claude <noreply@anthropic.com>",
    b"GPT 5.4 <codex@openai.com>",
    b"The Miri Cronjob Bot <miri@cron.bot>",
    b"Vapor Bot <73653552+VaporBot@users.noreply.github.com>",
    b"tmux update bot <update@example.org>",
    b"Atom Build Bot <atom@github.com>",
    b"The Gitter Badger <badger@gitter.im>",
    b"imgbot[bot] <31301654+imgbot[bot]@users.noreply.github.com>",
    b"DEPENDABOT[BOT] <x@example.org>",
]
PEOPLE = [
    b"Ada <ada@example.org>",
    b"Jan Bot <jan.bot@example.org>",
    b"Jan Bot <jan@example.org>",
    b"Bot Nguyen <nguyen@example.org>",
    b"Abbot Smith <abbot@example.org>",
    b"Talbot <talbot@example.org>",
    b"Elliot <ebot@example.org>",
    b"Jenkins Smith <jenkins.smith@example.org>",
    b"Robot Maker <maker@example.org>",
    b"GitHub <noreply@github.com>",
    b"ada <1234+ada@users.noreply.github.com>",
    b" <nameless@example.org>",
    b"No Address <>",
    b"Renovate Fan <renovate.fan@example.org>",
    b"\xff\xfe <x@example.org>",
    b"Claude Monet <monet@example.org>",
    b"Devin Torres <devin@example.org>",
    b"Ali Ijaz Sheikh <ofrobots@example.org>",
    b"Chris Talbot <chris@talbothome.com>",
    b"root <root@localhost>",
]


@pytest.mark.parametrize("author", BOTS, ids=lambda author: author.decode(errors="replace"))
def test_programs_are_bots(author: bytes) -> None:
    assert is_bot(author)


@pytest.mark.parametrize("author", PEOPLE, ids=lambda author: author.decode(errors="replace"))
def test_people_are_no_bots(author: bytes) -> None:
    assert not is_bot(author)


@pytest.mark.parametrize(
    ("numbers", "expected"), [([], 0), ([1], 1), ([1, 1], 1), ([1, 1, 1], 2), ([1, 3, 2], 1), ([2] * 9, 5), ([5, 4, 1], 1)]
)
def test_smallest_majority(numbers: list[int], expected: int) -> None:
    assert smallest_majority(numbers) == expected


def test_number_of_shares_is_bounded() -> None:
    people = count(Commits(array("q", [1] * 2000), array("l", range(2000))), Counter(range(2000)), frozenset(), 1)
    assert (len(people.shares), people.shares[0], people.active) == (MAX_SHARES, 0.0005, 2000)
