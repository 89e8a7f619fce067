"""The process around an instance: gunicorn's worker, and the claim on the data folder of embedded mode."""

from __future__ import annotations

import errno
import mmap
import os
import time
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gevent.server import StreamServer
from gunicorn import util
from gunicorn.http import get_parser
from gunicorn.http.errors import NoMoreData
from gunicorn.http.wsgi import base_environ
from gunicorn.workers.ggevent import GeventWorker

from app.core import metrics
from app.server import plain_http
from app.server.connection import ClientConnection
from app.server.exit_status import exit_process
from app.server.lifecycle import Lifecycle
from app.server.listener import drain_and_close, is_open_in_process
from app.server.plain_http import PlainRequest, PlainResponse
from app.server.stop_report import StopPhase

BEAT_SECONDS = 1.0
LOOK_SECONDS = 0.02
GIVE_UP_SECONDS = 2.0  # before SHUTDOWN_TIMEOUT is over, requests are cut off
CLOSE_SECONDS = 1.0  # of these, at least, for closing what was opened
FAREWELL_SECONDS = 3.0  # for a client to take what its WebSocket was sent last, and to close its side
MASTER_SECONDS = 0.2
ROOM = 10  # connections; below that, idle ones make way
RECEIVE_BYTES = 8192
GONE = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)  # by the client, or the last one by us: no faults


class InstanceWorker(GeventWorker):  # type: ignore[misc] # gunicorn has no type hints
    """Stops as a load balancer and the users behind it need it, on SIGTERM, on Ctrl-C, and when its master is gone.

    No hook of gunicorn runs when a stop begins (https://github.com/benoitc/gunicorn/issues/1464), and its own way waits in whole
    seconds for WebSockets and idle connections until the master kills all of it. Hence the class.
    """

    number: int
    clean_stop: mmap.mmap  # one byte that is shared with the master, which learns no more than a status from a worker's end
    lifecycle: Lifecycle
    shutdown_delay = 0

    def init_process(self) -> None:
        self._signalled = Event()
        self._connections: dict[gevent.Greenlet, ClientConnection] = {}
        self._accepted = 0
        super().init_process()

    def handle_exit(self, _signal: int, _frame: Any) -> None:
        # Runs in the event loop's own greenlet, which must not wait. The signal may come again, from the master and the platform.
        self._signalled.set()

    handle_quit = handle_exit

    def notify(self) -> None:
        self.tmp.notify()
        if self.ppid != os.getppid():
            self._signalled.set()

    def run(self) -> None:
        self.lifecycle.count_connections = lambda: len(self._connections) + self.lifecycle.count_websockets()
        metrics.connections.set_function(self.lifecycle.count_connections)
        servers = [self._serve(listener) for listener in self.sockets]
        gevent.spawn(self._beat)
        self._signalled.wait()
        clean = self._stop(servers)
        self.clean_stop[0] = clean
        exit_process(0 if clean else 1)

    def _serve(self, listener: Any) -> StreamServer:
        listener.setblocking(1)
        handle = partial(self.handle, _Name(listener))
        server = StreamServer(listener, handle=handle, spawn=Pool(self.worker_connections))
        if self.cfg.workers > 1:
            server.max_accept = 1
        server.start()
        return server

    def _beat(self) -> None:
        while True:
            self.notify()
            self._end_idle()
            gevent.sleep(BEAT_SECONDS)

    # Connections

    def handle(self, listener: Any, client: Any, address: Any) -> None:
        self._accepted += 1
        greenlet = gevent.getcurrent()
        connection = self._connections[greenlet] = ClientConnection(client)
        if len(self._connections) > self.worker_connections - ROOM:
            self._make_room()
        try:
            self._converse(listener.getsockname(), client, address, connection)
        except (StopIteration, NoMoreData):
            pass
        except OSError as error:
            if error.errno not in GONE:
                self.log.exception("Socket error processing request.")
        except BaseException as error:
            self.handle_error(connection.request, client, address, error)
        finally:
            util.close(client)
            del self._connections[greenlet]

    def _converse(self, name: Any, client: Any, address: Any, connection: ClientConnection) -> None:
        """One request after the other: plain ones here, all else by gunicorn, whose sign for the last one is StopIteration."""
        parser = get_parser(self.cfg, client, address)
        environ = self._plain_environ(name, client, address)
        data = b""
        while True:
            if not data:
                with connection.waiting():
                    data = client.recv(RECEIVE_BYTES)
            if not data:
                return
            if found := plain_http.read(data, environ):
                plain, data = found
                if not self._serve_plain(plain, client, connection):
                    return
                continue
            parser.unreader.unread(data)
            request = None
            with connection.waiting(), gevent.Timeout(self.cfg.keepalive, False):
                request = next(parser)
            if request is None:
                return
            self.handle_request(name, request, client, address)
            if not parser.finish_body():
                return
            data = parser.unreader.take_buffered()

    def _plain_environ(self, name: Any, client: Any, address: Any) -> dict[str, Any]:
        """Of all plain requests of a connection."""
        return {
            **base_environ(self.cfg),
            "wsgi.multithread": True,
            "wsgi.url_scheme": "http",
            "gunicorn.socket": client,
            "REQUEST_METHOD": "GET",
            "SERVER_PROTOCOL": "HTTP/1.1",
            "SCRIPT_NAME": "",
            "SERVER_NAME": name[0],
            "SERVER_PORT": str(name[1]),
            "REMOTE_ADDR": address[0],
            "REMOTE_PORT": str(address[1]),
        }

    def _serve_plain(self, request: PlainRequest, client: Any, connection: ClientConnection) -> bool:
        """Whether the connection can be used again."""
        self.yield_to_other_connections()
        if not self.alive:
            request.force_close()
        response = PlainResponse(request, client, self.cfg)
        body: Any = None
        with connection.serving(request):
            try:
                body = self.wsgi(request.environ, response.start_response)
                return response.send(body)
            except OSError:  # of a client that is gone, mostly
                raise
            except Exception:
                if not response.has_begun:
                    raise
                self.log.exception("Error handling request %s %s", request.method, request.uri)
                return False
            finally:
                if hasattr(body, "close"):
                    body.close()

    def handle_request(self, listener_name: Any, request: Any, client: Any, address: Any) -> Any:
        self.yield_to_other_connections()
        with self._connections[gevent.getcurrent()].serving(request):
            if not self.alive:
                request.force_close()
            return super().handle_request(listener_name, request, client, address)

    @staticmethod
    def yield_to_other_connections() -> None:
        """A connection whose next request is always there already would never let go: nobody else would be served, and the
        master would take the event loop for dead."""
        gevent.sleep(0)

    def _make_room(self) -> None:
        """Who only waits makes way, the eldest first: a full worker accepts nobody, not even those who ask for its health."""
        for connection in self._connections.values():
            if connection.is_idle:
                connection.end()
                return

    def _end_idle(self) -> None:
        for connection in self._connections.values():
            if connection.is_idle_for(self.cfg.keepalive):
                connection.end()

    # Stopping

    def _stop(self, servers: list[StreamServer]) -> bool:
        """Whether all of it was clean."""
        deadline = time.monotonic() + self.cfg.graceful_timeout - GIVE_UP_SECONDS
        report = self.lifecycle.drain()
        self._announce_close()
        with report.phase("delay"):
            gevent.sleep(self.shutdown_delay)
        self.lifecycle.begin_stop(report, max(0.5, deadline - time.monotonic() - 1))
        with report.phase("accept queue") as phase:
            self._stop_listening(servers, phase, max(0.0, deadline - time.monotonic()))
        with report.phase("requests") as phase:
            self._finish_requests(phase, deadline)
        return self.lifecycle.stop(report, deadline + CLOSE_SECONDS - time.monotonic())

    def _announce_close(self) -> None:
        """From now on each response says `Connection: close`, that of a request that has begun before as well."""
        self.alive = False
        for connection in self._connections.values():
            if connection.request:
                connection.request.force_close()

    def _stop_listening(self, servers: list[StreamServer], phase: StopPhase, seconds: float) -> None:
        before = self._accepted
        for server in servers:
            if self._is_held_by_master(server):
                server.close()  # the master goes on, and with it the queue, for the worker that comes next
            elif not drain_and_close(server.socket, server.close, gevent.sleep, seconds):
                phase.cut_off = "connections were waiting still"
        phase.count = self._accepted - before

    def _is_held_by_master(self, server: StreamServer) -> bool:
        """A master that got the signal in the same moment is about to close the socket."""
        if is_open_in_process(self.ppid, server.socket):
            gevent.sleep(MASTER_SECONDS)
        return is_open_in_process(self.ppid, server.socket)

    def _finish_requests(self, phase: StopPhase, deadline: float) -> None:
        phase.count = sum(connection.is_asking for connection in self._connections.values())
        patience = time.monotonic() + FAREWELL_SECONDS
        while (self._connections or self._is_waiting_for_websockets(patience)) and time.monotonic() < deadline:
            for connection in list(self._connections.values()):
                if connection.is_idle:
                    connection.end()
            gevent.sleep(LOOK_SECONDS)
        left = [connection for connection in self._connections.values() if connection.is_asking]
        if left:
            phase.cut_off = f"{len(left)} cut off"
            for connection in left:
                self.log.warning("cut off: %s %s", connection.request.method, connection.request.path)

    def _is_waiting_for_websockets(self, patience: float) -> bool:
        return self.lifecycle.count_websockets() > 0 and time.monotonic() < patience


class _Name:
    """Of a listener: gunicorn asks for it with each connection, though it may have been closed since that was accepted."""

    def __init__(self, listener: Any) -> None:
        self._name = listener.getsockname()

    def getsockname(self) -> Any:
        return self._name
