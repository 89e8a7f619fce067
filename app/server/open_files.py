"""How many files an instance or a worker has open at most, and whether the kernel allows that many to this process.

Connections count as files. An instance needs the sum of:

- `MAX_SOCKETS` and REQUEST_CONNECTIONS: what gunicorn.conf.py accepts from clients;
- the connections to Redis: CONNECTIONS_PER_PROCESS for each server that REDIS_URL names;
- DATABASE_POOL_SIZE;
- OTHER_FILES.

A worker needs the same without the first line.
"""

import resource

from app.core.config import Config, exit_with_faults
from app.core.config_parsers import redis_servers
from app.redis.client import CONNECTIONS_PER_PROCESS

REQUEST_CONNECTIONS = 1000  # so that health checks and other requests are accepted while MAX_SOCKETS sockets are open
# The reserve (50), and 20 for the listener, the log, the event loop and libraries. The rest is for static files, name look-ups,
# mails, webhooks and the pipes of an analysis.
OTHER_FILES = 128


def needed_by_instance(config: Config) -> int:
    return config.max_sockets + REQUEST_CONNECTIONS + needed_by_worker(config)


def needed_by_worker(config: Config) -> int:
    url = config.redis_url or ""
    servers = len(redis_servers(url).addresses) if "+" in url.partition(":")[0] else 1
    of_redis = servers * CONNECTIONS_PER_PROCESS if config.use_redis_sessions else 0
    return of_redis + config.database_pool_size + OTHER_FILES


def ensure_limit_or_exit(process: str, needed: int) -> None:
    """Raise the limit of open files of this process if it is below `needed`. If that is impossible, exit with EX_CONFIG.

    The kernel enforces the soft limit. A process may raise it up to the hard limit, which only root can raise.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft >= needed:
        return
    if hard < needed:
        advice = (
            f"LimitNOFILE={needed} in a systemd unit, ulimits.nofile in Compose, docker run --ulimit nofile={needed},"
            f" or ulimit -n {needed} as root in a shell"
        )
        exit_with_faults(
            [f"open files: {process} needs {needed}, but the hard limit of this process is {hard}. Raise it: {advice}"]
        )
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
