"""The fault: a process is killed after it commits a notification and before it publishes it."""

import os
import signal
from typing import Any

from app import create_app
from app.core import config
from app.notifications.service import Notifications


def die(*_: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


Notifications.push = die  # type: ignore[assignment, method-assign]

app = create_app(config.from_environment_or_exit())
