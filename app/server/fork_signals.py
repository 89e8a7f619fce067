"""Holds back the signals that stop a process while gunicorn's master forks a worker.

Until the new worker has installed its own handlers, it has those of the master, which do nothing in the worker, and then the
default ones. A signal in that moment would be lost, and the stop would last until the master loses patience.
"""

import os
import signal

_SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGQUIT}


def hold_back() -> None:
    """Called in the master before it forks. The kernel delivers the signals to each process after its call of `let_through`."""
    signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)


def let_through() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)


def let_through_in_master() -> None:
    """Make the master call `let_through` after each fork, for which gunicorn has no hook."""
    os.register_at_fork(after_in_parent=let_through)
