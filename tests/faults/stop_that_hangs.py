"""The fault: a stop waits for a connection that is never closed, until the timeout."""

import gevent

from app import create_app
from app.core import config
from app.server.lifecycle import Lifecycle

app = create_app(config.from_environment_or_exit())
lifecycle: Lifecycle = app.extensions["lifecycle"]
lifecycle.add("a connection that nobody closes", on_stop_begin=lambda seconds: gevent.sleep(2 * seconds))
