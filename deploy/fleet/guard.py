"""Kills the fleet's processes when its supervisor dies. A separate process that reads process groups from standard input.

The supervisor holds the other end of the pipe, which closes however the supervisor ends. PR_SET_PDEATHSIG would not be enough: it
does not reach grandchildren, and nginx' worker processes outlive their master.
"""

import os
import signal
import sys
from contextlib import suppress


def main() -> None:
    groups: set[int] = set()
    for line in sys.stdin:
        (groups.add if line[0] == "+" else groups.discard)(int(line[1:]))
    for group in groups:
        with suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)


if __name__ == "__main__":
    main()
