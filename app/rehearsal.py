"""The process that `flask rehearse` starts: `python -m gevent.monkey --module app.rehearsal PLAN`.

The official Socket.IO clients use hundreds of threads. gevent turns them into greenlets, but only if it patches the standard
library before anything else is imported, including the package `app`.
"""

from app import create_app
from app.operations.rehearsal.program import main

main(create_app)
