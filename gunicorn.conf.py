"""How gunicorn runs an instance. The configuration is checked here, before anything is bound or forked."""

# First of all, before anything else can take hold of what is patched (STDLIB sockets, locks, sleep).
from gevent import monkey

monkey.patch_all()

import gc
import os

from app.core import instance, logs
from app.server import data_lock, exit_status
from app.core.config import from_environment_or_exit
from app.server.worker_numbers import lowest_free_number

settings = from_environment_or_exit()
worker_exits = exit_status.WorkerExitStatus()
instance.identify(settings.instance_id)
logs.configure(settings.log_format, settings.log_level)

bind = f"[{settings.host}]:{settings.port}" if ":" in settings.host else f"{settings.host}:{settings.port}"
workers = settings.web_concurrency
worker_class = "app.server.worker.InstanceWorker"
logger_class = "app.core.logs.GunicornLogger"
loglevel = settings.log_level
proc_name = "reporadar"

# Sockets and idle keep-alive connections count here as well: there is always room for plain requests beside the sockets.
worker_connections = settings.max_sockets + 1000
# When the master loses patience; the worker gives up before (app.server.worker).
graceful_timeout = settings.shutdown_timeout
keepalive = 5
timeout = 30  # of the event loop, which a slow request does not stop

# Believing forwarded headers is up to TRUSTED_PROXIES alone.
forwarded_allow_ips = ""
secure_scheme_headers = {}  # type: ignore[var-annotated]

# One gunicorn an instance: several on a machine would fight for one control socket.
control_socket_disable = True
if os.path.isdir("/dev/shm"):  # noqa: PTH112, S108 - the heartbeat file belongs in memory, whatever /tmp is
    worker_tmp_dir = "/dev/shm"  # noqa: S108


def on_starting(server):  # type: ignore[no-untyped-def]
    data_lock.claim_data_folder(settings)


def pre_fork(server, worker):  # type: ignore[no-untyped-def]
    gc.freeze()  # a collection in the worker would write to, and so copy, all that it shares with the master: 45 MB
    worker.number = lowest_free_number(server.WORKERS.values())
    worker_exits.expect(worker)


def post_fork(server, worker):  # type: ignore[no-untyped-def]
    instance.identify(settings.instance_id, role=f"w{worker.number}" if workers > 1 else "")
    worker.shutdown_delay = settings.shutdown_delay


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    # The application stays as it is: each full collection would look at all of it, for some 0.1 s in which nobody is served.
    gc.collect()
    gc.freeze()
    worker.lifecycle = worker.wsgi.extensions["lifecycle"]
    worker.lifecycle.start()
    worker.log.info("Server listening on port %s", settings.port)


def child_exit(server, worker):  # type: ignore[no-untyped-def]
    worker_exits.note(server, worker)


def on_exit(server):  # type: ignore[no-untyped-def]
    worker_exits.leave(server)
