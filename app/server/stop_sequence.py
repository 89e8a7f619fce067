"""The stop of a worker, from the signal to the exit, in phases that share one deadline."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import gevent
from gevent.server import StreamServer

from app.server.listener import drain_and_close, is_open_in_process
from app.server.stop_report import StopPhase

if TYPE_CHECKING:
    from app.server.worker import InstanceWorker

POLL_SECONDS = 0.02
GIVE_UP_SECONDS = 2.0  # before SHUTDOWN_TIMEOUT expires, unfinished requests are cut off
CLOSE_SECONDS = 1.0  # minimum time for closing all parts of the application, taken from GIVE_UP_SECONDS
WEBSOCKET_CLOSE_SECONDS = 3.0  # for clients to receive their last messages and to answer the close frame
MASTER_CLOSE_SECONDS = 0.2
HOOKS_SECONDS = 0.5  # at least, for disconnecting clients, even if the delay has used up the time


class StopSequence:
    """Readiness turns 503 first, then clients are sent elsewhere, then the port is closed, and requests finish last."""

    def __init__(self, worker: InstanceWorker, servers: list[StreamServer]) -> None:
        self._worker = worker
        self._servers = servers

    def run(self) -> bool:
        """Return whether every phase was clean."""
        worker, lifecycle = self._worker, self._worker.lifecycle
        deadline = time.monotonic() + worker.cfg.graceful_timeout - GIVE_UP_SECONDS
        report = lifecycle.drain()
        worker.alive = False
        worker.connections.force_close()
        with report.phase("delay"):
            gevent.sleep(worker.shutdown_delay)
        lifecycle.begin_stop(report, max(HOOKS_SECONDS, deadline - time.monotonic() - 1))
        with report.phase("accept queue") as phase:
            self._stop_listening(phase, max(0.0, deadline - time.monotonic()))
        with report.phase("requests") as phase:
            self._finish_requests(phase, deadline)
        return lifecycle.stop(report, deadline + CLOSE_SECONDS - time.monotonic())

    def _stop_listening(self, phase: StopPhase, seconds: float) -> None:
        before = self._worker.connections.accepted
        for server in self._servers:
            if self._is_held_by_master(server):
                server.close()  # the master keeps the socket and its accept queue for the next worker
            elif not drain_and_close(server.socket, server.close, gevent.sleep, seconds, self._worker.listener_users):
                phase.cut_off = "the accept queue was not empty"
        phase.count = self._worker.connections.accepted - before

    def _is_held_by_master(self, server: StreamServer) -> bool:
        """Look twice: a master that received the signal at the same time is about to close the socket."""
        if is_open_in_process(self._worker.ppid, server.socket):
            gevent.sleep(MASTER_CLOSE_SECONDS)
        return is_open_in_process(self._worker.ppid, server.socket)

    def _finish_requests(self, phase: StopPhase, deadline: float) -> None:
        connections = self._worker.connections
        gevent.sleep(0)  # the greenlets of the connections that were accepted last begin
        phase.count = len(connections.serving()) + connections.receiving_heads()
        cut_off: list[Any] = []
        websocket_deadline = time.monotonic() + WEBSOCKET_CLOSE_SECONDS
        while (connections or self._is_waiting_for_websockets(websocket_deadline)) and time.monotonic() < deadline:
            connections.close_idle()
            cut_off += connections.close_draining()
            gevent.sleep(POLL_SECONDS)
        cut_off += [connection.request for connection in connections.serving()]
        for request in cut_off:
            self._worker.log.warning("cut off: %s %s", request.method, request.path)
        if heads := connections.receiving_heads():
            self._worker.log.warning("cut off: %d requests whose head was incomplete", heads)
        if cut_off or heads:
            phase.cut_off = f"{len(cut_off) + heads} cut off"

    def _is_waiting_for_websockets(self, deadline: float) -> bool:
        return self._worker.lifecycle.count_websockets() > 0 and time.monotonic() < deadline
