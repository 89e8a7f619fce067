"""Which tags are versions, and what the releases of a repository say together."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from app.analysis.dates import iso
from app.analysis.git import GitRepository
from app.analysis.releases import parse_version, read_tags, released_until, summarize
from harness.repositories import NOW, Commit, Tag, ago, build


def words(text: str) -> list[str]:
    return text.split()


# The usual forms, and those that are the only releases of a well-known project
VERSIONS = words("""
    1.2 v1.2.3 v4 V2 release-2024.05 jq-1.7 go1.21 REL_15_2 foo/v2.0.1 @foo/bar@2.0.1 OpenSSL_1_1_1w 1.0.0+build v.1.2 curl-8_4_0
    jdk-21+35 jdk-21-ga jdk8u392-b08 r150 2024a release-74-1 RELEASE.2024-01-18T22-51-28Z 2024-01-15 2024.01.15 v20231201
    release-20231010 v608-rel 3.3a 4.2-stable 1.0.0.Final n6.1 llvmorg-17.0.6 swift-5.9.1-RELEASE rel/release-3.3.6 1.0.post1
    jetty-9.4.53.v20231009 release-pypy3.10-v7.3.13 version-3.44.0 v3-lts v1.2.3-14-gdeadbee v1.0.0+build.dev tmux-3.3a 20.2-Nexus
    @foo/base@1.2.3
""")
PRE_RELEASES = words("""
    v1.2.3-rc.1 2.0.0rc2 1.0a1 24.1b2 1.0.dev3 v6.7-rc8 v255-rc1 5.0.0-M1 8.0-m01 1.0.0.CR1 1.0.0-SNAPSHOT n6.1-dev v2beta
    v2.0.0-preview.3 1.0.0-next.1 REL_16_BETA1 release-74-rc rc-8_22_0-2 2.4.58-rc1-candidate v7.4b.022 @a/b@1.2.3-beta.1
    llvmorg-18.1.0-rc1 swift-5.9-DEVELOPMENT-SNAPSHOT-2023-11-11-a 0.7.1rc nightly-1.2.3 @a/b@5.1.0-temp.0
""")
# They count only in a repository without versions of another kind.
UNCERTAIN = words("sf_16 xterm-388 Isabelle2023 b4567 go1 mutt-2-2-12-rel tz-2024a 20231002 059 7 2024-01")
NO_VERSIONS = words("""
    nightly latest backup-1 build-7 v release-x 2.3.x v4.x 1.x test/master stable before-1.2 archive/7 step-1 lesson2 sprint-14
    deploy-2024-01-15 prod-2024.01.15-1 nightly-2023-12-01 nightly/2024-01-15 weekly.2012-03-27 llvmorg-18-init basepoints/gcc-14
    mpm-merge-2 svn-1234 foo-2-bar issue-12 with-deprecated-diskstore swift-DEVELOPMENT-SNAPSHOT-2023-12-07-a ü1.0 / @
    archive/v1.2.3 backup/v1.0 autobuild-2024-01-15-12-50 bak-1 continuous-123 rolling-5 untagged-12
""")


@pytest.mark.parametrize("tag", VERSIONS)
def test_tag_is_a_release(tag: str) -> None:
    version = parse_version(tag)
    assert version is not None
    assert (version.is_certain, version.is_pre_release) == (True, False)


@pytest.mark.parametrize("tag", PRE_RELEASES)
def test_tag_is_a_pre_release(tag: str) -> None:
    version = parse_version(tag)
    assert version is not None
    assert (version.is_certain, version.is_pre_release) == (True, True)


@pytest.mark.parametrize("tag", UNCERTAIN)
def test_tag_may_be_a_version(tag: str) -> None:
    version = parse_version(tag)
    assert version is not None
    assert not version.is_certain


@pytest.mark.parametrize("tag", [*NO_VERSIONS, "", "1.0 beta", "1." * 60])
def test_tag_is_not_a_version(tag: str) -> None:
    assert parse_version(tag) is None


@pytest.mark.parametrize("part", ["b", "b-", "-b", "b.1", "1-", "-1", "1.", "rc1", "a-", "a_1", "u1", "v1", "+", "~"])
def test_hostile_tags_take_little_time(part: str) -> None:
    """A tag is at most 100 characters long, and backtracking would take years."""
    begin = time.process_time()
    for begin_of_tag in ("", "1", "v1", "1.2", "sf_16"):
        for end in ("", "!", "x!", "~x"):
            parse_version((begin_of_tag + part * 100)[: 100 - len(end)] + end)
    assert time.process_time() - begin < 1


def test_versions_are_ordered() -> None:
    versions = {tag: version for tag in ("v1.10.1", "v1.9", "v1.10", "v1.10-rc1") if (version := parse_version(tag))}
    assert sorted(versions, key=lambda tag: versions[tag].order) == ["v1.9", "v1.10-rc1", "v1.10", "v1.10.1"]


def releases_of(path: Path, *tags: Tag) -> dict[str, Any]:
    path.mkdir(exist_ok=True)
    found = read_tags(GitRepository(build(path / "x.git", [Commit(ago(2000), files={b"a": b"1\n"})], list(tags))))
    assert found.count == len(tags)
    return summarize(found.releases, int(NOW.timestamp()))


def test_pre_releases_count_but_do_not_define_the_rhythm(tmp_path: Path) -> None:
    candidates = [
        Tag(f"v2.{number}-rc{candidate}", 0, ago(100 - 10 * number - candidate)) for number in (1, 2) for candidate in (1, 2)
    ]
    found = releases_of(tmp_path, Tag("v1.0", 0, ago(100)), Tag("v1.1", 0, ago(60)), Tag("v2.0", 0, ago(40)), *candidates)
    assert (found["count"], found["latest"], found["latest_at"]) == (7, "v2.0", iso(ago(40)))
    assert found["median_days_between"] == 30
    assert found["recent"] == [{"name": name, "at": iso(ago(days))} for name, days in (("v2.0", 40), ("v1.1", 60), ("v1.0", 100))]


def test_only_pre_releases_are_used_where_there_are_no_others(tmp_path: Path) -> None:
    found = releases_of(tmp_path, Tag("1.0b1", 0, ago(9)), Tag("1.0b2", 0, ago(7)), Tag("nightly", 0, ago(1)))
    assert (found["count"], found["latest"], found["median_days_between"]) == (2, "1.0b2", 2)
    assert [release["name"] for release in found["recent"]] == ["1.0b2", "1.0b1"]


def test_numbers_without_a_usual_word_count_only_where_there_is_nothing_better(tmp_path: Path) -> None:
    numbers = [Tag("twitter-20100825", 0, ago(5)), Tag("7", 0, ago(4))]
    assert releases_of(tmp_path / "alone", *numbers)["count"] == 2
    assert releases_of(tmp_path / "beside", Tag("sf_15.1", 0, ago(9)), Tag("sf_16", 0, ago(8)), *numbers)["latest"] == "sf_16"


def test_packages_released_on_one_day_are_one_release_of_the_rhythm(tmp_path: Path) -> None:
    """Twice, three packages are released within minutes; a correction on one day is a release of its own."""
    names = ("a@1.{}.0", "b/v0.{}.1", "c-0.{}.2")
    tags = [Tag(name.format(number), 0, ago(30 * number) + 60 * place) for number in (1, 2) for place, name in enumerate(names)]
    found = releases_of(tmp_path / "packages", *tags)
    assert (found["count"], found["latest"], found["median_days_between"]) == (6, "c-0.1.2", 30)
    found = releases_of(tmp_path / "one", Tag("v1.0", 0, ago(10)), Tag("v1.1", 0, ago(10) + 8640), Tag("v1.2", 0, ago(9)))
    assert found["median_days_between"] == 0.5


def test_recent_releases_are_of_five_years_and_at_most_a_hundred(tmp_path: Path) -> None:
    found = releases_of(tmp_path, Tag("v0.1", 0, ago(1850)), *(Tag(f"v1.{day}", 0, ago(day)) for day in range(120)))
    assert [release["name"] for release in found["recent"]] == [f"v1.{day}" for day in range(100)]
    assert [release["name"] for release in releases_of(tmp_path / "old", Tag("v0.1", 0, ago(1850)))["recent"]] == []


def test_releases_until_a_time_in_the_past(tmp_path: Path) -> None:
    tags = [Tag("v1.0", 0, ago(90)), Tag("v1.1", 0, ago(60)), Tag("v1.2", 0, ago(30))]
    releases = read_tags(GitRepository(build(tmp_path / "x.git", [Commit(ago(99))], tags))).releases
    assert summarize(released_until(releases, ago(60)), ago(60))["latest"] == "v1.1"
    assert summarize(released_until(releases, ago(60) - 1), ago(60) - 1)["latest"] == "v1.0"
    nothing: dict[str, Any] = {"count": 0, "latest": None, "latest_at": None, "median_days_between": None, "recent": []}
    assert summarize(released_until(releases, ago(91)), ago(91)) == nothing
