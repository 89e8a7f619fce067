"""gunicorn with RepoRadar's worker, without its application."""

from gevent import monkey

monkey.patch_all()

from app.server.exit_status import WorkerExitStatus
from app.server.lifecycle import Lifecycle

worker_class = "app.server.worker.InstanceWorker"


def pre_fork(_server, worker):  # type: ignore[no-untyped-def]
    WorkerExitStatus.share_memory(worker)


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    worker.lifecycle = Lifecycle()
