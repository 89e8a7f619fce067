"""The measurements of a rehearsal. Times are seconds on the monotonic clock of the load generator."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from app.operations.rehearsal.machine import MachineLoad


@dataclass(frozen=True)
class SentRequest:
    started: float
    seconds: float
    method: str
    status: int  # 0: no response
    user_id: int
    may_retry: bool = False  # the response had a Retry-After header
    error: str = ""  # which instance reported which error

    @property
    def ended(self) -> float:
        return self.started + self.seconds

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


@dataclass
class SocketOutage:
    """The time between a disconnection and the `ready` event after the reconnection."""

    lost_at: float
    instance: str  # which held the socket before
    back_at: float | None = None
    failed_attempts: int = 0


@dataclass
class SocketRecord:
    user_id: int
    received: list[tuple[float, int]] = field(default_factory=list)  # (time, seq) in the order on the wire
    outages: list[SocketOutage] = field(default_factory=list)
    connected: bool = False
    signed_out: bool = False
    is_bystander: bool = False  # reconnects slowly on purpose


@dataclass(frozen=True)
class EventBatch:
    """The events of one request."""

    ids: Sequence[str]
    accepted: bool | None  # None: there was no valid response, so they may be stored or not


@dataclass
class OptOut:
    """One opt-out of a user who sends events before, during and after it."""

    before: list[EventBatch] = field(default_factory=list)  # sent before the opt-out was confirmed
    after: list[EventBatch] = field(default_factory=list)
    confirmed: bool = False  # answered with 200
    fenced_at: datetime | None = None
    stored: dict[str, datetime] | None = None  # the user's events in SQL right after the response; None: SQL was unavailable


@dataclass(frozen=True)
class ObservedStop:
    instance: str
    signalled_at: float
    exited_at: float
    ready_at: float
    unready_at: float | None  # the first 503 of /health/ready
    closings: Sequence[float]  # times at which sockets were closed
    load: MachineLoad = MachineLoad()  # from the signal to the exit


@dataclass(frozen=True)
class ObservedBalance:
    """The sockets of each instance, after the last one of a rolling restart has returned without any."""

    instance: str
    counts: dict[str, int]
    seconds: float | None  # until no instance had too many; None: that did not happen in time


@dataclass(frozen=True)
class ReportedStop:
    """A stop as /api/fleet shows it."""

    instance: str
    kind: str  # clean, forced, crashed
    summary: str


@dataclass
class RehearsalPhase:
    name: str
    started: float
    ended: float = 0.0
    load: MachineLoad = MachineLoad()
    killed_at: float | None = None
    killed: str = ""  # the killed instance
    down_at: float | None = None  # Redis was stopped
    back_at: float | None = None  # Redis was available again

    def has(self, time: float) -> bool:
        return self.started <= time < self.ended


@dataclass(frozen=True)
class StoredEvents:
    """The rehearsal's events in SQL at the end."""

    rows: dict[str, int]  # event ID -> number of rows
    beyond_fences: Collection[str]  # IDs of events that happened after their user's opt-out
    waiting: int  # entries of the stream that are not stored yet


@dataclass(frozen=True)
class DrainSettings:
    drain_rate: float
    shutdown_delay: float
    shutdown_timeout: float
    rebalances: bool = True


@dataclass
class Measurements:
    url: str
    instances: int
    settings: DrainSettings
    requests: list[SentRequest] = field(default_factory=list)
    sockets: list[SocketRecord] = field(default_factory=list)
    phases: list[RehearsalPhase] = field(default_factory=list)
    stops: list[ObservedStop] = field(default_factory=list)
    balance: ObservedBalance | None = None  # None: there was no rolling restart of several instances, or REBALANCE is false
    reported_stops: list[ReportedStop] | None = field(default_factory=list)  # None: /api/fleet did not list them
    accepted: dict[int, dict[int, float]] = field(default_factory=dict)  # user ID -> seq -> time at which it was stored
    logouts: int = 0
    revived: int = 0  # sessions that were valid again after their logout
    events: list[EventBatch] = field(default_factory=list)  # of users who never opt out
    opt_outs: list[OptOut] = field(default_factory=list)
    stored_events: StoredEvents | None = None  # None: the rehearsal ended before they were counted
    remarks: list[str] = field(default_factory=list)  # phases that were skipped, and why
    interrupted: str | None = None  # why the rehearsal ended early
    load: MachineLoad = MachineLoad()  # from the beginning until the rehearsal ended early

    @property
    def worst_load(self) -> MachineLoad:
        loads = [self.load, *(phase.load for phase in self.phases)]
        return MachineLoad(max(load.stall for load in loads), max(load.slowdown for load in loads))
