"""gunicorn with RepoRadar's worker and none of its application."""

from gevent import monkey

monkey.patch_all()

from app import process
from app.lifecycle import Lifecycle

worker_class = "app.process.InstanceWorker"


def pre_fork(_server, worker):  # type: ignore[no-untyped-def]
    process.Outcomes.expect(worker)


def post_worker_init(worker):  # type: ignore[no-untyped-def]
    worker.lifecycle = Lifecycle()
