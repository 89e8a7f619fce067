"""The partitions of accepted events in Redis: one on a single server, several on a Redis Cluster.

A partition is a stream with its dead letters, and the cached consent of the people whose events it gets. On a cluster all keys of
a partition share a hash tag, because one script uses them together.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

from app.analytics.person import Person
from app.redis.client import is_cluster
from app.redis.cluster import SLOTS, slot_of_key

# Another number would need to read the partitions of this one until they are empty.
PARTITIONS_OF_CLUSTER = 6


@dataclass(frozen=True)
class Partition:
    tag: str = ""  # a single server needs none

    @property
    def stream(self) -> str:
        return self._key("events")

    @property
    def dead_letters(self) -> str:
        """The stream of the entries that can never be stored, for an operator to inspect."""
        return self._key("poison")

    def consent_keys(self, person: Person) -> list[str]:
        """Return the keys of a person's cached consent and of the changes of consent in progress."""
        return [self._key("standing", person.key), self._key("changing", person.key)]

    def _key(self, *parts: str) -> str:
        name, *rest = parts
        tag = [f"{{{self.tag}}}"] if self.tag else []
        return ":".join(["analytics", name, *tag, *rest])


SINGLE = Partition()


def partitions_of(client: object) -> tuple[Partition, ...]:
    """Return the partitions on the server or cluster of a client of redis-py."""
    return _OF_CLUSTER if is_cluster(client) else (SINGLE,)


def partition_of(person: Person, partitions: Sequence[Partition]) -> Partition:
    return partitions[zlib.crc32(person.key.encode()) % len(partitions)]


def _spread_tags(number: int) -> list[str]:
    """Return tags whose slots divide all slots evenly, and so among the masters."""
    tags = (f"events-{n}" for n in count())
    found: dict[int, str] = {}
    while len(found) < number:
        tag = next(tags)
        found.setdefault(slot_of_key(tag) * number // SLOTS, tag)
    return [tag for _, tag in sorted(found.items())]


_OF_CLUSTER = tuple(Partition(tag) for tag in _spread_tags(PARTITIONS_OF_CLUSTER))
