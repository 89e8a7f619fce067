"""Wiring: which job handlers and periodic tasks a process with a worker pool runs."""

from collections.abc import Sequence
from functools import partial

from app.analytics.exports.jobs import ExportRunner
from app.analytics.store import purge_events
from app.core.config import Config
from app.core.keyring import Keyring
from app.database.engine import Database
from app.jobs.broker import JobQueues
from app.jobs.periodic import PeriodicTasks
from app.jobs.pool import BackgroundWorker, WorkerPool
from app.jobs.statistics import JobStatistics
from app.jobs.task_record import TaskRecord
from app.notifications.channels import Channels
from app.notifications.jobs import NotificationDeliverer
from app.notifications.service import Notifications
from app.repositories.jobs import AnalysisRunner


def create_worker_pool(
    config: Config,
    database: Database,
    notifications: Notifications,
    queues: JobQueues,
    encryption: Keyring,
    size: int,
    *,
    background_workers: Sequence[BackgroundWorker] = (),
    task_record: TaskRecord | None = None,
    statistics: JobStatistics | None = None,
    is_embedded: bool = False,
) -> WorkerPool:
    statistics = statistics or JobStatistics()
    analyses = AnalysisRunner(config, database, notifications, queues.analyses.send, statistics=statistics)
    exports = ExportRunner(database, notifications, queues.exports.send, statistics)
    queues.analyses.handler, queues.exports.handler = analyses.run, exports.run
    deliverer = NotificationDeliverer(config, database, notifications, encryption, task_record)
    channels = Channels(config, database, encryption)
    # Each runs for a limited time and continues with the next call.
    purge_analytics = partial(purge_events, database, config.analytics_retention_days)
    periodic_tasks = PeriodicTasks(
        frequent={
            "requeue_analyses": analyses.requeue_lost,
            "start_daily_analyses": analyses.start_due,
            "requeue_exports": exports.requeue_lost,
        },
        hourly={
            "purge_notifications": notifications.purge,
            "purge_deliveries": channels.purge,
            "renew_channel_secrets": channels.renew_secrets,
            "purge_exports": exports.purge,
            "purge_analytics": purge_analytics,
        },
        record=task_record,
    )
    return WorkerPool(
        queues.broker, [analyses, exports], [periodic_tasks, deliverer, *background_workers], size, is_embedded=is_embedded
    )
