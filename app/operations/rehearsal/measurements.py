"""What a rehearsal has seen. All times are seconds on one monotonic clock."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime


@dataclass(frozen=True)
class Request:
    started: float
    seconds: float
    method: str
    status: int  # 0: no answer
    user_id: int
    may_retry: bool = False  # it said when to try again
    why: str = ""  # it failed, and who says so

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class Outage:
    """Of one socket: from its loss to the moment in which it was served again."""

    lost_at: float
    instance: str  # that had it
    back_at: float | None = None


@dataclass
class Socket:
    user_id: int
    heard: list[tuple[float, int]] = field(default_factory=list)  # when, seq; as they came on the wire
    outages: list[Outage] = field(default_factory=list)
    connected: bool = False  # now
    signed_out: bool = False
    is_bystander: bool = False  # it takes its time to come back


@dataclass(frozen=True)
class Batch:
    """Events of one request."""

    ids: Sequence[str]
    taken: bool | None  # as it was answered; None: without an answer they may be stored or not


@dataclass
class No:
    """One user's, in the middle of their events."""

    before: list[Batch] = field(default_factory=list)  # sent before it was answered
    after: list[Batch] = field(default_factory=list)
    answered: bool = False  # with 200
    fenced_at: datetime | None = None
    stored: dict[str, datetime] | None = None  # of the user right after the answer: nothing may be added to it; None: not seen


@dataclass(frozen=True)
class Stop:
    instance: str
    asked_at: float
    gone_at: float
    ready_at: float
    unready_at: float | None  # when /health/ready was first seen to answer 503
    closings: Sequence[float]  # of its sockets
    stall: float = 0.0  # while they were closed


@dataclass(frozen=True)
class ToldStop:
    """As the fleet itself has it in /api/fleet."""

    instance: str
    kind: str  # clean, forced, crashed
    summary: str


@dataclass
class Phase:
    name: str
    started: float
    ended: float = 0.0
    stall: float = 0.0
    killed_at: float | None = None
    killed: str = ""  # which instance
    down_at: float | None = None  # Redis
    back_at: float | None = None

    def has(self, moment: float) -> bool:
        return self.started <= moment < self.ended


@dataclass(frozen=True)
class Accounting:
    """What became of the events, in SQL and at the end."""

    rows: dict[str, int]  # how often each event is there
    beyond_fences: Collection[str]  # events of users who have said no that happened later
    waiting: int  # in the stream


@dataclass(frozen=True)
class Settings:
    drain_rate: float
    shutdown_delay: float
    shutdown_timeout: float


@dataclass
class Measurements:
    url: str
    instances: int
    settings: Settings
    requests: list[Request] = field(default_factory=list)
    sockets: list[Socket] = field(default_factory=list)
    phases: list[Phase] = field(default_factory=list)
    stops: list[Stop] = field(default_factory=list)
    told: list[ToldStop] = field(default_factory=list)
    accepted: dict[int, dict[int, float]] = field(default_factory=dict)  # user -> seq -> when it was stored
    logouts: int = 0
    revived: int = 0  # sessions that were valid again after their logout
    events: list[Batch] = field(default_factory=list)  # of users who never say no
    noes: list[No] = field(default_factory=list)
    accounting: Accounting | None = None  # None: it did not come to that
    remarks: list[str] = field(default_factory=list)  # what was not rehearsed
    interrupted: str | None = None  # why it ended before its end
