"""Running out of file descriptors: noticed in one place and logged once, whichever part of the process needs one.

Each connection and each open file needs a descriptor. The kernel limits them for each process (RLIMIT_NOFILE) and in total.
"""

import errno
import logging
import math
import os
import resource
import time

from app.core import metrics
from app.core.warnings import OperatorWarning

log = logging.getLogger(__name__)

NONE_LEFT = (errno.EMFILE, errno.ENFILE)
ERROR_TEXT = os.strerror(errno.EMFILE)  # with which the text of ENFILE begins; libraries pass on the text, not always the number
STDERR = 2  # the log
EPISODE_SECONDS = 10.0  # a shortage that returns within this time is the same one
WARNING = OperatorWarning("no_file_descriptors", "no file descriptors left: new connections are answered with 503")


class DescriptorShortage:
    """Whether a descriptor was needed lately and none was left. A process has one, because it has one table of descriptors."""

    def __init__(self) -> None:
        self._seen_at = -math.inf

    @property
    def is_current(self) -> bool:
        return time.monotonic() - self._seen_at < EPISODE_SECONDS

    def find_warning(self) -> OperatorWarning | None:
        return WARNING if self.is_current else None

    def record(self, error: OSError) -> None:
        """Record that there was no descriptor. The first record of a shortage is logged."""
        is_first = not self.is_current
        self._seen_at = time.monotonic()
        if is_first:
            log.error(
                "no file descriptors left: %s (limit of this process: %d): new connections and files fail."
                " Raise LimitNOFILE (systemd), ulimits (Docker) or ulimit -n;"
                " see 'no file descriptors left' in docs/troubleshooting.md",
                error.strerror,
                resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            )

    def look(self) -> bool:
        """Record it if there is no descriptor now. Return whether the shortage is current."""
        try:
            os.close(os.dup(STDERR))
        except OSError as error:
            if error.errno in NONE_LEFT:
                self.record(error)
        return self.is_current


shortage = DescriptorShortage()
metrics.descriptor_shortage.set_function(lambda: shortage.is_current)
