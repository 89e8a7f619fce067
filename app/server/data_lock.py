"""The lock on the data folder of embedded mode."""

from __future__ import annotations

import fcntl
import sys
from typing import IO

from app.core.config import EX_CONFIG, Config

_claim: IO[str] | None = None  # held until the last process of this instance ends


def claim_data_folder(config: Config) -> None:
    """Embedded mode is one instance on its data: a second one is refused."""
    global _claim
    if config.use_redis_sessions:
        return
    _claim = (config.data_folder / "lock").open("w")
    try:
        fcntl.flock(_claim, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        sys.stderr.write(
            f"RepoRadar does not start: another embedded instance runs on the data in {config.data_folder}.\n"
            "For several instances use Redis and PostgreSQL (USE_REDIS_SESSIONS=true).\n"
        )
        sys.exit(EX_CONFIG)
