"""Brings a fetched repository back to an earlier time: HEAD and tags as they were then, as far as git knows."""

from collections.abc import Iterator
from datetime import datetime

from app.analysis import history
from app.analysis.dates import parse_timestamp
from app.analysis.git import GitRepository

NO_BRANCH = "refs/heads/reporadar/none"


def rewind(repository: GitRepository, until: datetime) -> None:
    """Detach HEAD at its last first-parent commit until this time, and delete later tags. Raises GitError.

    HEAD names no commit afterwards if there was none then. Tags without a date, such as those on files, are deleted too.
    """
    timestamp = int(until.timestamp())
    if found := _last_commit(repository, timestamp):
        repository.output("update-ref", "--no-deref", "HEAD", found)
    else:
        repository.output("symbolic-ref", "HEAD", NO_BRANCH)
    later = list(_later_tags(repository, timestamp))
    with repository.stream("update-ref", "--stdin", input=(b"delete %b\n" % tag for tag in later)):
        pass


def _last_commit(repository: GitRepository, timestamp: int) -> str:
    head = history.find_head(repository)
    if head is None:
        return ""
    before = f"--before=@{timestamp} +0000"
    return repository.output("rev-list", "-1", "--first-parent", before, head, "--").decode().strip()


def _later_tags(repository: GitRepository, timestamp: int) -> Iterator[bytes]:
    command = ("for-each-ref", "--format=%(refname)%00%(creatordate:unix)", "refs/tags")
    for line in repository.records(*command, end=b"\n"):
        tag, _, date = line.partition(b"\0")
        if not date or parse_timestamp(date) > timestamp:
            yield tag
