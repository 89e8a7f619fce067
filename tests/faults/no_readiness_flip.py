"""The fault: a stopping instance still reports that it is ready, so that the balancer keeps sending requests."""

from app import create_app
from app.core import config
from app.server.lifecycle import READY, Lifecycle
from app.server.stop_report import StopReport

drain = Lifecycle.drain


def unnoticed(self: Lifecycle) -> StopReport:
    report = drain(self)
    self.phase = READY
    return report


Lifecycle.drain = unnoticed  # type: ignore[method-assign]

app = create_app(config.from_environment_or_exit())
