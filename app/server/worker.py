"""gunicorn's worker class for an instance: it accepts connections, serves them and stops without dropping any.

gunicorn has no hook for the beginning of a stop (https://github.com/benoitc/gunicorn/issues/1464); its own gevent worker waits in
whole seconds for WebSockets and idle connections until the master kills it. The benefit of this loop: a stop with open sockets
takes well below a second and closes them cleanly (`python -m bench.stop`), and together with `plain_http` a request costs a fifth
of the CPU (`python -m bench.serving`).
"""

import errno
import mmap
import os
from functools import partial
from typing import Any

import gevent
from gevent.event import Event
from gevent.pool import Pool
from gunicorn import util
from gunicorn.http.errors import NoMoreData
from gunicorn.workers.ggevent import GeventWorker

from app.core import metrics
from app.core.descriptors import shortage
from app.server.accept import DescriptorReserve, ReservingServer
from app.server.connection import ClientConnection, OpenConnections
from app.server.exit_status import exit_process
from app.server.fork_signals import let_through
from app.server.http_loop import serve_connection
from app.server.lifecycle import Lifecycle
from app.server.listener import ListenerUsers
from app.server.stop_sequence import StopSequence

HEARTBEAT_SECONDS = 1.0
ACCEPTED_TOGETHER = 8  # before requests that have arrived are served
RESERVED_CONNECTIONS = 10  # below the limit; from there on idle connections are evicted
EVICTION_SECONDS = 0.05  # for an evicted connection to be closed
CONNECTION_CLOSED = (errno.EPIPE, errno.ECONNRESET, errno.ENOTCONN, errno.EBADF)  # by the client, or by an eviction


class InstanceWorker(GeventWorker):  # type: ignore[misc] # gunicorn has no type hints
    """Stops on SIGTERM, on SIGINT, and when its master has ended. Signals may be repeated by the master and the platform."""

    number: int
    clean_stop: mmap.mmap  # one byte shared with the master, which otherwise learns only the exit status
    lifecycle: Lifecycle
    listener_users = ListenerUsers()  # shared by all workers: the master imports this class before it forks
    plain_http = True
    shutdown_delay = 0

    def init_process(self) -> None:
        self._stop_signal = Event()
        self.reserve = DescriptorReserve()
        self.connections = OpenConnections(
            self.worker_connections - RESERVED_CONNECTIONS, lambda: self.lifecycle.count_websockets()
        )
        super().init_process()

    def init_signals(self) -> None:
        super().init_signals()
        let_through()

    def handle_exit(self, _signal: int, _frame: Any) -> None:
        self._stop_signal.set()  # runs in the event loop's own greenlet, which must not wait

    handle_quit = handle_exit

    def notify(self) -> None:
        self.tmp.notify()
        if self.ppid != os.getppid():
            self._stop_signal.set()

    def run(self) -> None:
        self.lifecycle.count_connections = lambda: len(self.connections) + self.lifecycle.count_websockets()
        metrics.connections.set_function(self.lifecycle.count_connections)
        servers = [self._listen(listener) for listener in self.sockets]
        gevent.spawn(self._run_heartbeat)
        self._stop_signal.wait()
        is_clean = StopSequence(self, servers).run()
        self.clean_stop[0] = is_clean
        exit_process(0 if is_clean else 1)

    def _listen(self, listener: Any) -> ReservingServer:
        listener.setblocking(1)
        self.listener_users.enter(listener)
        # The name is read now, because the listener may be closed before its last connection is served.
        handle = partial(self.handle, listener.getsockname())
        server = ReservingServer(self.reserve, self.connections, listener, handle=handle, spawn=Pool(self.worker_connections))
        server.max_accept = 1 if self.cfg.workers > 1 else ACCEPTED_TOGETHER
        server.start()
        return server

    def _run_heartbeat(self) -> None:
        while True:
            self.notify()
            self.reserve.refill()
            shortage.look()
            self.connections.close_idle(self.cfg.keepalive)
            self.connections.log_slow_clients()
            gevent.sleep(HEARTBEAT_SECONDS)

    def handle(self, server_name: Any, client: Any, address: Any) -> None:
        connection = self.connections.add(client)
        try:
            if self.reserve.is_used:
                self._return_descriptor(connection)
            serve_connection(self, connection, server_name, address)
        except (StopIteration, NoMoreData):
            pass
        except TimeoutError:
            self.connections.add_timeout(connection.request)
        except OSError as error:
            if error.errno not in CONNECTION_CLOSED:
                self.log.exception("Socket error processing request.")
        except BaseException as error:
            self.handle_error(connection.request, client, address, error)
        finally:
            util.close(client)
            self.connections.remove(connection)
            if self.reserve.is_used:
                self.reserve.refill()

    def _return_descriptor(self, connection: ClientConnection) -> None:
        """Refill the reserve with the descriptors of evicted connections. If they are too few, this one stays on the reserve."""
        gevent.sleep(EVICTION_SECONDS)
        self.reserve.refill()
        connection.is_on_reserve = self.reserve.is_used

    @staticmethod
    def yield_to_other_connections() -> None:
        """Called before each request. A connection whose next request has always arrived already would block all others, and the
        master would kill a worker whose heartbeat does not run."""
        gevent.sleep(0)
