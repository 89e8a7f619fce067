"""Takes the fleet along when its supervisor is killed. A program of its own: it is told of process groups on standard input.

The supervisor holds the other end of standard input, which therefore ends when the supervisor does, however it does. Linux' own
tie to the parent (PR_SET_PDEATHSIG) would leave out grandchildren: the processes of nginx go on without their master.
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
