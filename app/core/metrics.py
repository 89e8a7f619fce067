"""Every metric of the application, so that an operator finds them in one place. Served at `/metrics`."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

requests = Histogram(
    "reporadar_http_request_seconds",
    "Time until a response began, by class of status; without /health, /metrics and /socket.io/, whose polls wait on purpose",
    ["status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
sessions_rejected = Counter(
    "reporadar_session_integrity_failures_total",
    "Session records that were not what this application had written, by reason; any increase deserves a look",
    ["reason"],
)
for _reason in ("authentication", "format", "incomplete", "type", "unknown key"):
    sessions_rejected.labels(_reason)  # from 0 on, so that the first one is an increase too
session_records = Gauge(
    "reporadar_session_records",
    "Live session records by secret and key id, while more than one key is configured; 0: the key may be dropped",
    ["secret", "key_id"],
)
session_key_active = Gauge(
    "reporadar_session_key_active",
    "1 for the key that new session records and cookies are written with, 0 for the others that are held",
    ["secret", "key_id"],
)
attempts = Counter(
    "reporadar_auth_attempts_total",
    "Logins, registrations and confirmations by password, by outcome: succeeded, failed, limited",
    ["kind", "outcome"],
)
dependency_up = Gauge("reporadar_dependency_up", "1 if the dependency answered its last probe", ["dependency"])
dependency_latency = Gauge("reporadar_dependency_latency_seconds", "Latency of the last answered probe", ["dependency"])
ready = Gauge("reporadar_ready", "1 while this instance wants traffic")

cpu_percent = Gauge("reporadar_cpu_percent", "CPU that this process used in the last second, in percent of one core")
memory_percent = Gauge("reporadar_memory_percent", "Memory in use, in percent of the container's limit, or else of the machine's")
loop_delay = Gauge("reporadar_loop_delay_seconds", "How late the event loop was when it last woke up whoever measures this")
connections = Gauge("reporadar_connections", "Open connections of clients to this instance, sockets and idle ones included")
advice = Gauge("reporadar_advice", "1 while there is advice on this metric", ["metric"])
stops = Counter("reporadar_stops_total", "Ends of instances that this one knows of: clean, forced, crashed", ["kind"])
for _kind in ("clean", "forced", "crashed"):
    stops.labels(_kind)

sockets = Gauge("reporadar_sockets", "Open sockets of signed-in users on this instance")
sockets_refused = Counter("reporadar_sockets_refused_total", "Handshakes answered 503: full, stopping, or a store was down")
sockets_cut_off = Counter("reporadar_sockets_cut_off_total", "Sockets closed because their client did not read what it was sent")
queue_messages_lost = Counter(
    "reporadar_queue_messages_lost_total", "Messages to other instances that Redis did not take; what they told of is found later"
)

events_taken = Counter("reporadar_events_taken_total", "Analytics events that were durably accepted")
events_unrecorded = Counter(
    "reporadar_events_unrecorded_total", "Events of the application itself that no store took in time; pages do not wait for it"
)
events_waiting = Gauge("reporadar_events_waiting", "Accepted events that no worker has stored yet")
events_put_aside = Gauge("reporadar_events_put_aside", "Events that can't be stored, and are kept for somebody to look at")
