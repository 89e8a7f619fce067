"""The control process of a rehearsal: a program that does a little work five times a second and prints how long it took.

It has nothing to do with the fleet: if it has to wait for a processor, the machine is busy. It imports nothing from the
application, so that it starts at once and needs little memory.
"""

import signal
import sys
import time

PAUSE_SECONDS = 0.2
WORK_SECONDS = 0.01  # of processor time: a few time slices of the kernel, so that the work competes with others as a request does


def main() -> None:
    """Print a line for each piece of work: when it was due on the monotonic clock, and after how many seconds it was done."""
    for number in (signal.SIGINT, signal.SIGPIPE):  # Ctrl-C, and the end of the rehearsal, end this process without a traceback
        signal.signal(number, signal.SIG_DFL)
    while True:
        due = time.monotonic() + PAUSE_SECONDS
        time.sleep(PAUSE_SECONDS)
        done = time.thread_time() + WORK_SECONDS
        while time.thread_time() < done:
            pass
        sys.stdout.write(f"{due} {time.monotonic() - due}\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
