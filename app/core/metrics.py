"""All metrics of the application, served at `/metrics`."""

from prometheus_client import Counter, Gauge, Histogram

from app.core.shared_histogram import SharedHistogram

requests = Histogram(
    "reporadar_http_request_seconds",
    "Time until the response started, by status class; without /health, /metrics and /socket.io/, whose long polls wait",
    ["status"],
    buckets=(0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10),
)
for _status in ("2xx", "3xx", "4xx", "5xx"):
    requests.labels(_status)  # start at 0, so that the first error is an increase
sessions_rejected = Counter(
    "reporadar_session_integrity_failures_total",
    "Session records that were rejected as corrupt, by reason; investigate any increase",
    ["reason"],
)
for _reason in ("authentication", "format", "incomplete", "type", "unknown key"):
    sessions_rejected.labels(_reason)
session_records = Gauge(
    "reporadar_session_records",
    "Live session records by secret and key ID, while more than one key is configured; 0: the key can be removed",
    ["secret", "key_id"],
)
session_key_active = Gauge(
    "reporadar_session_key_active",
    "1 for the key that encrypts new session records or signs new cookies, 0 for the other configured keys",
    ["secret", "key_id"],
)
attempts = Counter(
    "reporadar_auth_attempts_total",
    "Logins, registrations, password confirmations and resets, and refused API tokens, by outcome: succeeded, failed, limited",
    ["kind", "outcome"],
)
dependency_up = Gauge("reporadar_dependency_up", "1 if the dependency answered the last probe", ["dependency"])
dependency_latency = Gauge("reporadar_dependency_latency_seconds", "Latency of the last successful probe", ["dependency"])
ready = Gauge("reporadar_ready", "1 while this instance is ready for traffic")
descriptor_shortage = Gauge("reporadar_file_descriptor_shortage", "1 while this instance has no file descriptors left")
database_connections_in_use = Gauge("reporadar_database_connections_in_use", "Connections of the pool that are in use")
database_pool_wait = Histogram(
    "reporadar_database_pool_wait_seconds",
    "Time that transactions waited for a free connection",
    buckets=(0.001, 0.005, 0.025, 0.1, 0.25, 0.5, 1, 2.5),
)

cpu_percent = Gauge("reporadar_cpu_percent", "CPU usage of this process in the last second, in percent of one core")
memory_percent = Gauge(
    "reporadar_memory_percent",
    "Memory in use, in percent of the container's limit or of the machine",
)
loop_delay = Gauge("reporadar_loop_delay_seconds", "Event-loop lag at the last measurement")
connections = Gauge("reporadar_connections", "Open client connections to this instance, including WebSockets and idle ones")
advice = Gauge("reporadar_advice", "1 while the fleet page gives advice about this metric", ["metric"])
stops = Counter("reporadar_stops_total", "Stops of instances that this instance knows of: clean, forced, crashed", ["kind"])
for _kind in ("clean", "forced", "crashed"):
    stops.labels(_kind)

sockets = Gauge("reporadar_sockets", "Open sockets of signed-in users on this instance")
sockets_refused = Counter("reporadar_sockets_refused_total", "Handshakes rejected with 503: full, stopping, or a store was down")
sockets_shed = Counter("reporadar_sockets_shed_total", "Sockets sent to instances with fewer sockets")
sockets_cut_off = Counter("reporadar_sockets_cut_off_total", "Sockets closed because the client did not read its messages")
queue_messages_lost = Counter(
    "reporadar_queue_messages_lost_total",
    "Messages to other instances that Redis did not accept",
)
queue_messages_rejected = Counter(
    "reporadar_queue_messages_rejected_total",
    "Received envelopes of messages that no instance signed, or that cannot be decoded",
)

events_taken = Counter("reporadar_events_taken_total", "Analytics events that were durably accepted")
events_unrecorded = Counter(
    "reporadar_events_unrecorded_total",
    "Application events that were dropped because no store accepted them",
)
events_waiting = Gauge("reporadar_events_waiting", "Accepted events that no worker has stored yet")
events_put_aside = Gauge("reporadar_events_put_aside", "Dead-lettered events: they can't be stored and are kept")

jobs = Gauge("reporadar_jobs", "Unfinished jobs of the fleet by state: queued, running", ["kind", "state"])
job_oldest_queued = Gauge("reporadar_job_oldest_queued_seconds", "Age of the oldest queued job; 0: none is queued", ["kind"])
job_seconds = SharedHistogram(
    "reporadar_job_seconds",
    "Duration of attempts at jobs by outcome: succeeded, failed, retried, released (the worker stopped), lost",
    ["kind", "outcome"],
    buckets=(1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800),
)
workers = Gauge("reporadar_workers", "Worker processes of the fleet that sent a heartbeat in the last 10 s")

task_last_success = Gauge(
    "reporadar_task_last_success_timestamp_seconds",
    "When a periodic task last succeeded; scope `fleet`: a task of the workers, the same on every instance; `instance`: its own",
    ["scope", "task"],
)
task_interval = Gauge("reporadar_task_interval_seconds", "How often a periodic task runs", ["scope", "task"])
