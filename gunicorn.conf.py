"""The gunicorn settings of an instance. The configuration is checked here, before anything is bound or forked."""

# Patch first: modules that are imported before keep the blocking sockets, locks and sleep of the standard library.
from gevent import monkey

monkey.patch_all()

import gc
import os

gc.disable()  # imports create many objects and hardly any garbage: without collections the start takes a sixth less

import app.factory  # noqa: F401 - so that workers share its memory and start quickly
from app.core import instance, logs
from app.core.config import from_environment_or_exit
from app.server import data_lock, exit_status, fork_signals, open_files

gc.enable()

settings = from_environment_or_exit()
open_files.ensure_limit_or_exit(f"MAX_SOCKETS={settings.max_sockets}", open_files.needed_by_instance(settings))
worker_exit_status = exit_status.WorkerExitStatus()
instance.identify(settings.instance_id)
logs.configure(settings.log_format, settings.log_level)
fork_signals.let_through_in_master()

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "app.server.worker.InstanceWorker"
logger_class = "app.core.logs.GunicornLogger"
loglevel = settings.log_level
proc_name = "reporadar"

# Sockets and idle keep-alive connections count too; the rest is for plain requests, so that health checks are always accepted.
worker_connections = settings.max_sockets + open_files.REQUEST_CONNECTIONS
# The master kills the worker after this time; the worker gives up 2 s earlier (app.server.stop_sequence).
graceful_timeout = settings.shutdown_timeout
keepalive = 5
sendfile = False  # gevent has none, and app.server.connection limits the time of each write
timeout = 30  # of the event loop; a slow request does not stop its heartbeat

# Only TRUSTED_PROXIES decides which forwarded headers are trusted.
forwarded_allow_ips = ""
secure_scheme_headers = {}  # type: ignore[var-annotated]

# Each instance has its own gunicorn, and those of one machine would overwrite each other's control socket.
control_socket_disable = True
if os.path.isdir("/dev/shm"):  # noqa: PTH112, S108 - the heartbeat file belongs in memory, and /tmp may be a disk
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server):  # type: ignore[no-untyped-def]
    data_lock.lock_data_folder(settings)


def pre_fork(server, worker):  # type: ignore[no-untyped-def]
    gc.freeze()  # otherwise a collection in the worker writes to the pages shared with the master and copies them: 45 MB
    worker.number = exit_status.lowest_free_number(server.WORKERS.values())
    worker_exit_status.share_memory(worker)
    fork_signals.hold_back()  # last: from here to the fork, the master reacts to no signal


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    instance.identify(settings.instance_id, role=f"w{worker.number}" if workers > 1 else "")
    worker.shutdown_delay = settings.shutdown_delay
    worker.plain_http = settings.plain_http


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    # The application's objects live as long as the process; a full collection of them would block the event loop for 0.1 s.
    gc.collect()
    gc.freeze()
    worker.lifecycle = worker.wsgi.extensions["lifecycle"]
    worker.lifecycle.start()
    worker.log.info("Server listening on port %s", settings.port)


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    worker_exit_status.record(server, worker)


def on_exit(server):  # type: ignore[no-untyped-def]
    worker_exit_status.exit_master(server)
