"""The one list of private APIs of other libraries that the application uses, and of the behaviour that it overrides.

An upgrade that changes one of them fails here. Read the change in the library, adapt the application, then replace the digest
by the one in the failure message.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import inspect
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from harness.servers import ROOT

LIBRARIES = ("gunicorn", "engineio", "socketio", "flask_socketio", "gevent", "redis", "hiredis")


@dataclass(frozen=True)
class PrivateApi:
    name: str  # module:object
    used_by: str
    reason: str
    digest: str  # of its source; of its public attributes where it is compiled


HTTP_LOOP, PLAIN, WORKER = "app/server/http_loop.py", "app/server/plain_http.py", "app/server/worker.py"
TRANSPORT, QUEUE, MULTIPLEXED = "app/realtime/transport.py", "app/realtime/message_queue.py", "app/redis/multiplexed.py"
ROOM_MEMBERS, PACKETS = "app/realtime/room_members.py", "app/realtime/packets.py"
CLUSTER, SENTINEL = "app/redis/cluster.py", "app/redis/sentinel.py"
REHEARSAL, PUBLISHER = "app/operations/rehearsal/clients.py", "app/realtime/publisher.py"

# fmt: off
PRIVATE_APIS = [
    PrivateApi("gunicorn.arbiter:Arbiter.stop", "app/server/exit_status.py",
               "LISTENERS is empty while the master stops", "17681d40721c"),
    PrivateApi("gunicorn.arbiter:Arbiter.spawn_worker", "app/server/exit_status.py",
               "the order of hooks, and WORKERS", "7e62b83848e0"),
    PrivateApi("gunicorn.errors:HaltServer", "app/server/exit_status.py", "exit_status", "bf794b663064"),
    PrivateApi("gunicorn.workers.base:Worker.__init__", WORKER,
               "alive, cfg, log, ppid, sockets, tmp and wsgi are read, alive is set", "acaa034b76e1"),
    PrivateApi("gunicorn.workers.base:Worker.handle_error", WORKER, "answers what the HTTP loop could not serve", "2d59d7770f84"),
    PrivateApi("gunicorn.workers.base:Worker.init_signals", WORKER,
               "overridden: signals that were held back during the fork are let through after it", "35fed92e2472"),
    PrivateApi("gunicorn.workers.base:Worker.handle_exit", WORKER,
               "overridden: SIGTERM begins the stop sequence", "1c9fb272d23d"),
    PrivateApi("gunicorn.workers.ggevent:GeventWorker.handle_quit", WORKER,
               "overridden: SIGINT stops as SIGTERM does", "5ae3b19f6361"),
    PrivateApi("gunicorn.workers.ggevent:GeventWorker.notify", WORKER,
               "overridden: the end of the master begins the stop sequence", "7937914ed3fe"),
    PrivateApi("gunicorn.workers.ggevent:GeventWorker.run", WORKER, "overridden: replaced by the worker loop", "12d2ceb4f5d0"),
    PrivateApi("gunicorn.workers.ggevent:GeventWorker.handle", WORKER,
               "overridden: serves a connection by the HTTP loop", "347a3041d9b8"),
    PrivateApi("gunicorn.workers.ggevent:GeventWorker.init_process", WORKER,
               "overridden: creates the state of the loop before", "6743cdbd5693"),
    PrivateApi("gunicorn.workers.ggevent:GeventWorker.handle_request", HTTP_LOOP,
               "serves a request that is not plain", "09d06274500e"),
    PrivateApi("gunicorn.workers.base_async:AsyncWorker.handle", WORKER,
               "the loop that is replaced: its errors and its way to close are kept", "643b1ac3e5b6"),
    PrivateApi("gunicorn.workers.base_async:AsyncWorker.handle_request", HTTP_LOOP,
               "raises StopIteration after the last request of a connection", "0ca25242246e"),
    PrivateApi("gunicorn.systemd:sd_notify", "app/worker.py", "sends READY and WATCHDOG to systemd", "54152f6aea7b"),
    PrivateApi("gunicorn.util:close", WORKER, "ends a connection", "ce55cfa95222"),
    PrivateApi("gunicorn.http:get_parser", HTTP_LOOP, "parser of a connection", "b7d8dcde91e2"),
    PrivateApi("gunicorn.http.parser:Parser", HTTP_LOOP, "unreader and finish_body are used between requests", "3a9c06e348c7"),
    PrivateApi("gunicorn.http.unreader:Unreader", HTTP_LOOP,
               "unread and take_buffered hand received bytes over and back", "84aaa8f91fcd"),
    PrivateApi("gunicorn.http.errors:InvalidHeader", HTTP_LOOP, "answered with 400", "01f859af6509"),
    PrivateApi("gunicorn.http.errors:NoMoreData", WORKER, "raised when the client has closed the connection", "549d75f9be34"),
    PrivateApi("gunicorn.http.errors:ParseException", "app/core/errors.py",
               "a malformed body, answered with 400", "e95735be2b89"),
    PrivateApi("gunicorn.http.message:Message", HTTP_LOOP, "force_close and should_close", "1998788a8a48"),
    PrivateApi("gunicorn.http.wsgi:base_environ", PLAIN, "part of the environ of plain requests", "942494574f2c"),
    PrivateApi("gunicorn.http.wsgi:create", PLAIN, "the environ that plain requests must equal", "2c35d4a2dc62"),
    PrivateApi("gunicorn.http.wsgi:FileWrapper", PLAIN, "recognises bodies for write_file", "8f7142e80806"),
    PrivateApi("gunicorn.http.wsgi:Response", PLAIN, "writes responses that are not plain", "d67f8e6b29d7"),
    PrivateApi("gunicorn.util:unquote_to_wsgi_str", PLAIN, "decodes the path", "7bc6d0bf7f60"),
    PrivateApi("gunicorn.glogging:Logger.setup", "app/core/logs.py", "overridden: records go to the root logger", "549605395cad"),
    PrivateApi("engineio.base_socket:BaseSocket", TRANSPORT, "its attributes hold the state of a connection", "d787ee3666d0"),
    PrivateApi("engineio.socket:Socket", TRANSPORT,
               "the class that the application's own replaces in the module engineio.server", "275926e45771"),
    PrivateApi("engineio.socket:Socket.receive", TRANSPORT, "overridden: refuses packets after the end", "0d340a38a442"),
    PrivateApi("engineio.socket:Socket.close", TRANSPORT, "overridden: ends what belongs to a connection", "0545fa24f1fc"),
    PrivateApi("engineio.socket:Socket.poll", TRANSPORT, "overridden: limits the packets of one poll", "426c7d6fa27a"),
    PrivateApi("engineio.socket:Socket.schedule_ping", TRANSPORT, "overridden: one greenlet for all sockets", "ce99733916e9"),
    PrivateApi("engineio.socket:Socket._upgrade_websocket", TRANSPORT,
               "overridden: the application's own WebSocket", "7da93efe8f53"),
    PrivateApi("engineio.server:Server.send_packet", TRANSPORT, "replaced: disconnects clients that do not read", "6f243be7bde1"),
    PrivateApi("engineio.server:Server.handle_request", TRANSPORT, "creates sockets of the class in its module", "a7a76a9ee2ec"),
    PrivateApi("engineio.base_server:BaseServer.__init__", TRANSPORT,
               "handlers, sockets, ping_interval and ping_timeout", "0f52c7378430"),
    PrivateApi("engineio.base_server:BaseServer.generate_id", TRANSPORT, "replaced: IDs contain the instance ID", "ed7978ed5af6"),
    PrivateApi("engineio.exceptions:QueueEmpty", TRANSPORT, "raised by poll", "677002417821"),
    PrivateApi("engineio.exceptions:SocketIsClosedError", TRANSPORT, "raised by send and receive", "3c52b85b71f4"),
    PrivateApi("engineio.exceptions:UnknownPacketError", TRANSPORT, "raised by receive", "173f8a506f98"),
    PrivateApi("engineio.packet:Packet", PACKETS, "parses and encodes packets", "a0d70ee4777b"),
    PrivateApi("engineio.payload:Payload", PACKETS,
               "parses the body of a polling POST; max_decode_packets is set", "6b839223a0a7"),
    PrivateApi("engineio.packet:CLOSE", PACKETS, "packet type", "6b86b273ff34"),
    PrivateApi("engineio.packet:MESSAGE", PACKETS, "packet type", "4b227777d4dd"),
    PrivateApi("engineio.packet:NOOP", TRANSPORT, "packet type", "e7f6c011776e"),
    PrivateApi("engineio.packet:PING", PACKETS, "packet type", "d4735e3a265e"),
    PrivateApi("engineio.packet:PONG", PACKETS, "packet type", "4e07408562be"),
    PrivateApi("engineio.packet:UPGRADE", PACKETS, "packet type", "ef2d127de37b"),
    PrivateApi("engineio.client:Client._receive_packet", REHEARSAL,
               "overridden: records messages in the order on the wire", "d57e07eba86a"),
    PrivateApi("socketio.packet:Packet", PACKETS, "base of ClientPacket", "e1660ba64e4e"),
    PrivateApi("socketio.packet:Packet.decode", PACKETS, "overridden: rejects attachments and acknowledgements", "d7d14f66f4d5"),
    PrivateApi("socketio.packet:CONNECT", PACKETS, "packet type", "5feceb66ffc8"),
    PrivateApi("socketio.packet:DISCONNECT", PACKETS, "packet type", "6b86b273ff34"),
    PrivateApi("socketio.packet:EVENT", PACKETS, "packet type", "d4735e3a265e"),
    PrivateApi("socketio.base_manager:BaseManager.__init__", ROOM_MEMBERS,
               "rooms, callbacks, pending_connect and pending_disconnect", "2c0c2105beab"),
    PrivateApi("socketio.base_manager:BaseManager.basic_enter_room", ROOM_MEMBERS,
               "overridden: keeps an index of rooms", "4bccfc8039a4"),
    PrivateApi("socketio.base_manager:BaseManager.basic_leave_room", ROOM_MEMBERS,
               "overridden: keeps an index of rooms", "5ce333aaa3c1"),
    PrivateApi("socketio.base_manager:BaseManager.basic_disconnect", ROOM_MEMBERS,
               "overridden: looks rooms up in the index", "badf3313db9a"),
    PrivateApi("socketio.pubsub_manager:PubSubManager._thread", QUEUE, "handles what _listen yields", "24b54fffa739"),
    PrivateApi("socketio.pubsub_manager:PubSubManager.initialize", QUEUE, "overridden: starts no thread", "35f77f867392"),
    PrivateApi("socketio.pubsub_manager:PubSubManager._publish", QUEUE, "overridden: publishes signed envelopes", "bcbb9a4cca4e"),
    PrivateApi("socketio.pubsub_manager:PubSubManager._listen", QUEUE, "overridden: receives signed envelopes", "f57121ab6f1b"),
    PrivateApi("socketio.client:Client._engineio_client_class", REHEARSAL,
               "overridden: uses the recording engine", "9ecd18c5a8d3"),
    PrivateApi("redis._parsers.base:BaseParser", MULTIPLEXED,
               "parse_error gives error replies their exception types", "cf1d4e789737"),
    PrivateApi("redis.connection:AbstractConnection._get_socket", MULTIPLEXED,
               "the socket of the shared connection", "5032b1c894c1"),
    PrivateApi("redis.connection:Connection._connect", MULTIPLEXED, "opens the shared connection", "30c59ea7ab06"),
    PrivateApi("redis.connection:AbstractConnection.connect", MULTIPLEXED, "opens the shared connection", "448768de9056"),
    PrivateApi("redis.connection:AbstractConnection.disconnect", MULTIPLEXED, "closes the shared connection", "2e1dfc4b8dd6"),
    PrivateApi("redis.connection:AbstractConnection.pack_commands", PUBLISHER, "packs several commands", "993061e8f887"),
    PrivateApi("redis.connection:AbstractConnection.send_packed_command", QUEUE, "sends subscriptions", "c68186c138f5"),
    PrivateApi("redis.connection:AbstractConnection.read_response", QUEUE,
               "receives messages without the costs of PubSub", "318371a6be09"),
    PrivateApi("redis.connection:BlockingConnectionPool.get_connection", QUEUE, "a connection of its own", "92060b4ac414"),
    PrivateApi("redis.connection:AbstractConnection.on_connect_check_health", SENTINEL,
               "overridden: asks for the role of the server", "ca96652c12d8"),
    PrivateApi("redis.connection:SSLConnection._connect", "app/redis/failover.py",
               "overridden: remembers which server it connected to, and when", "52c850fd6c8f"),
    PrivateApi("redis.client:Redis.parse_response", "app/redis/client.py",
               "response_callbacks are cleared, so that replies stay raw", "a27aadda3a0e"),
    PrivateApi("redis.client:Redis.from_pool", "app/redis/client.py", "closing the client closes the pool", "cd9939da9996"),
    PrivateApi("redis.client:Pipeline", CLUSTER, "command_stack holds pairs of a command and its options", "6d78119d9c22"),
    PrivateApi("redis.client:Pipeline.execute", CLUSTER, "overridden: sends to several nodes", "ef48913587f6"),
    PrivateApi("redis.client:Redis.execute_command", CLUSTER, "overridden: finds the node of a command", "e207fbcc2dd5"),
    PrivateApi("redis.client:Redis.pipeline", CLUSTER, "overridden: returns a pipeline over several nodes", "7f1822055bae"),
    PrivateApi("redis.client:Redis.close", CLUSTER, "overridden: closes the pools of all nodes", "caea8334486a"),
    PrivateApi("redis.commands.core:ScriptCommands.register_script", CLUSTER,
               "overridden: returns a script for several nodes", "c06952da5f7f"),
    PrivateApi("redis.commands.core:Script.__call__", CLUSTER,
               "overridden: loads a script on the node that needs it", "8a0dcc365a15"),
    PrivateApi("redis.commands.core:ScanCommands.scan_iter", CLUSTER, "overridden: iterates over all masters", "9211df7f1145"),
    PrivateApi("redis.crc:key_slot", CLUSTER, "the slot of a key", "402cb9c64c6a"),
    PrivateApi("gevent.hub:Waiter", MULTIPLEXED, "switch() is called by the event loop, get() waits for a reply", "09c8bf86c380"),
    PrivateApi("gevent.hub:Hub", MULTIPLEXED,
               "loop.io, loop.timer and loop.run_callback are used by the shared connection and the WebSocket", "2fc88e2c7821"),
    PrivateApi("gevent.server:StreamServer.do_read", "app/server/accept.py",
               "overridden: uses the reserve when no file descriptor is left", "a102bf17b18e"),
    PrivateApi("gevent.baseserver:BaseServer._do_read", "app/server/accept.py",
               "accepts nothing if do_read returns None, and stops accepting then", "2681d8cc673a"),
    PrivateApi("gevent.server:StreamServer", WORKER, "max_accept is set, and socket is read", "7fa354083dbe"),
]
# fmt: on

# Imported names that the libraries document.
DOCUMENTED = {
    "engineio:Client", "engineio:Server", "flask_socketio:ConnectionRefusedError", "flask_socketio:SocketIO",
    "gevent.event:AsyncResult", "gevent.event:Event", "gevent.lock:RLock", "gevent.lock:Semaphore",
    "gevent.pool:Group", "gevent.pool:Pool", "gevent.queue:Empty",
    "gevent.queue:Full", "gevent.queue:Queue", "gevent.server:StreamServer", "gevent.threadpool:ThreadPool", "gevent:monkey",
    "gevent.hub:Waiter", "gevent.hub:get_hub", "redis.backoff:NoBackoff", "redis.exceptions:AskError",
    "redis.exceptions:ClusterCrossSlotError", "redis.exceptions:ClusterDownError", "redis.exceptions:MovedError",
    "redis.exceptions:NoScriptError", "redis.exceptions:TryAgainError",
    "redis.connection:Connection", "redis.connection:ConnectionInterface", "redis.connection:ConnectionPool", "redis.retry:Retry",
    "redis.commands.core:Script", "socketio:Manager", "socketio:PubSubManager", "gunicorn:glogging", "gunicorn:SERVER",
}  # fmt: skip


def find(name: str) -> Any:
    module, _, path = name.partition(":")
    found: Any = importlib.import_module(module)
    for part in path.split("."):
        found = inspect.getattr_static(found, part) if inspect.isclass(found) else getattr(found, part)
        if inspect.isclass(found) and found.__module__.startswith("app."):  # the application's class has replaced it
            found = found.__base__
    return found.__func__ if isinstance(found, staticmethod | classmethod) else found


def digest(api: Any) -> str:
    function: Any = api.fget if isinstance(api, property) else api
    try:
        described = textwrap.dedent(inspect.getsource(function))
    except (TypeError, OSError):  # compiled, or a constant
        public = [attribute for attribute in dir(api) if not attribute.startswith("_")]
        described = f"{public}" if inspect.isclass(api) or callable(api) else repr(api)
    return hashlib.sha256(described.encode()).hexdigest()[:12]


@pytest.mark.parametrize("api", PRIVATE_APIS, ids=lambda api: api.name)
def test_private_api_is_unchanged(api: PrivateApi) -> None:
    assert digest(find(api.name)) == api.digest


def test_each_entry_is_used_where_the_list_says() -> None:
    for api in PRIVATE_APIS:
        assert (ROOT / api.used_by).exists(), api
    assert len({api.name for api in PRIVATE_APIS}) == len(PRIVATE_APIS)


# The search for uses that are not listed


def sources() -> Iterator[Path]:
    yield from (ROOT / "app").rglob("*.py")
    yield from (ROOT / "gunicorn.conf.py", ROOT / "wsgi.py")


def imported_names(tree: ast.AST) -> set[str]:
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] in LIBRARIES:
            names |= {f"{node.module}:{alias.name}" for alias in node.names}
    return names


def imported_libraries(tree: ast.AST) -> set[str]:
    imports = (alias.name for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names)
    names = (*imports, *(found.partition(":")[0] for found in imported_names(tree)))
    return {name.split(".")[0] for name in names} & set(LIBRARIES)


def overrides() -> set[str]:
    """The attributes of library classes that classes of the application override."""
    found = set()
    for path in (ROOT / "app").rglob("*.py"):
        if not imported_libraries(ast.parse(path.read_text())):
            continue
        name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        module = importlib.import_module(name)
        for value in vars(module).values():
            if inspect.isclass(value) and value.__module__ == name:
                found |= set(overridden_by(value))
    return found


def overridden_by(one: type) -> Iterator[str]:
    bases = [base for base in one.__mro__ if base.__module__.split(".")[0] in LIBRARIES and not issubclass(base, Exception)]
    for name in vars(one):
        owner = next((base for base in bases if name in vars(base)), None)
        if owner and not (name.startswith("__") and name != "__init__") and callable(getattr(owner, name)):
            yield f"{owner.__module__}:{owner.__qualname__}.{name}"


def unlisted(names: set[str]) -> set[str]:
    """The names that are neither documented nor listed. A module or class is listed by the parts of it that are used."""
    listed = [api.name for api in PRIVATE_APIS]
    parts = {name: (name, f"{name}.", f"{name.replace(':', '.')}:") for name in names - DOCUMENTED}
    return {
        name
        for name, (same, *prefixes) in parts.items()
        if same not in listed and not any(one.startswith(tuple(prefixes)) for one in listed)
    }


def test_each_imported_name_is_documented_or_listed() -> None:
    imported = set().union(*(imported_names(ast.parse(path.read_text())) for path in sources()))
    assert unlisted(imported) == set()


def test_each_overridden_method_is_listed() -> None:
    # Constructors are documented where their class is.
    assert unlisted({name for name in overrides() if not name.endswith(".__init__")}) == set()


# Negative controls


def test_changed_signature_and_changed_body_are_detected() -> None:
    def original(first: int) -> int:
        return first

    def renamed(first: int, second: int = 0) -> int:
        return first

    before = digest(original)
    assert before == digest(original)
    assert digest(renamed) != before


def test_import_and_override_that_are_not_listed_are_detected() -> None:
    from gunicorn.workers.ggevent import GeventWorker

    class Overriding(GeventWorker):  # type: ignore[misc]
        def handle_usr1(self, sig: int, frame: Any) -> None: ...

    assert unlisted(set(overridden_by(Overriding))) == {"gunicorn.workers.ggevent:GeventWorker.handle_usr1"}
    assert unlisted(imported_names(ast.parse("from gunicorn.util import close_on_exec"))) == {"gunicorn.util:close_on_exec"}
