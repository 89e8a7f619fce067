"""The lock on the data folder of embedded mode."""

import fcntl
import sys
from typing import IO

from app.core.config import EX_CONFIG, Config

_lock_file: IO[str] | None = None  # open, and so locked, until the last process of this instance ends


def lock_data_folder(config: Config) -> None:
    """Exit with EX_CONFIG if another embedded instance uses the same data folder."""
    global _lock_file
    if config.use_redis_sessions:
        return
    _lock_file = (config.data_folder / "lock").open("w")
    try:
        fcntl.flock(_lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stderr.write(
            f"RepoRadar does not start: another embedded instance already uses the data in {config.data_folder}.\n"
            "Stop it, or set another DATABASE_URL.\n"
            "For several instances use Redis and PostgreSQL (USE_REDIS_SESSIONS=true).\n"
        )
        sys.exit(EX_CONFIG)
