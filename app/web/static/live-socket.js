// A connection to RepoRadar that stays live while instances are stopped or balanced. When its instance sends `draining`, the page opens
// the next socket first and closes the old one when the next one is ready.
//
//   import { io } from "/static/vendor/socket.io.esm.min.js"; // or the official client of npm, 4.6 or newer
//   import { LiveSocket } from "/static/live-socket.js";
//
//   const live = new LiveSocket(io, { after: 17 }); // the last notification that the page has; null: from now on
//   live.on("notification", ({ seq, title }) => console.log(seq, title));
//
// Handlers are called with the data of the server's events (docs/socketio.md lists them), and of four events of this module:
//
//   live     the data of `ready`, when a socket is ready, and `handedOver`: whether another one was live until then
//   missed   {head}: the notifications up to this number are no longer available over sockets; get them over HTTP
//   waiting  no socket is live; the next one connects
//   ended    {reason}: the session has ended, and so has this connection
//
// A handler sees each notification once, in order. All other events come from one socket at a time; they report a current state, which
// a page that has missed some can get over HTTP when it is `live`.

const HANDOVER_RETRY_MS = 250; // the old instance waits for 5 s
const RECONNECT_MS = 1000; // after a disconnect by the server, after which the client does not reconnect by itself
const ANSWER_MS = 2000;

export class LiveSocket {
  last; // the number of the last notification that the handlers have seen
  isLive = false;
  hasEnded = false;

  #open;
  #reconnection; // the delays of the official client
  #query;
  #handlers = {};
  #requests = new Map(); // by key: [event, data, onAnswer]
  #current; // the socket that handlers listen to
  #next = null; // its replacement, until that is ready
  #isDraining = false; // the current socket

  /** `io`: of the official client. `options`: those of `io`, and the address of the site in `url`, by default that of the page. */
  constructor(io, { after = null, url, ...options } = {}) {
    this.last = after;
    const { reconnectionDelay = 1000, reconnectionDelayMax = 5000 } = options;
    this.#reconnection = { reconnectionDelay, reconnectionDelayMax };
    this.#query = options.query ?? {};
    this.#open = (reason) => this.#listen(io(url, this.#optionsOf(options, reason)));
    this.#current = this.#open();
  }

  on(event, handler) {
    (this.#handlers[event] ??= []).push(handler);
  }

  /** The Socket.IO socket that handlers listen to at this moment. */
  get socket() {
    return this.#current;
  }

  /** Sends an event now, and again over each later socket until another one with the same key takes its place. */
  request(key, event, data, onAnswer = () => {}) {
    this.#requests.set(key, [event, data, onAnswer]);
    if (this.isLive) this.#current.emit(event, data, onAnswer);
  }

  /** Receives `analysis` events of a repository, which is the default for those that the user follows. */
  watch(repositoryId, onAnswer) {
    this.request(`repository ${repositoryId}`, "watch", { repository_id: repositoryId }, onAnswer);
  }

  unwatch(repositoryId, onAnswer) {
    this.request(`repository ${repositoryId}`, "unwatch", { repository_id: repositoryId }, onAnswer);
  }

  /** Ends the connection for good. */
  close() {
    this.hasEnded = true;
    this.isLive = false;
    this.#current.disconnect();
    this.#next?.disconnect();
  }

  #optionsOf(options, reason) {
    return {
      ...options,
      ...(reason && { reconnectionDelay: HANDOVER_RETRY_MS, reconnectionDelayMax: HANDOVER_RETRY_MS }),
      forceNew: true,
      query: { ...this.#query, ...(reason && { replaces: reason }) },
      auth: (send) => send({ after: this.last, hands_over: true }),
    };
  }

  #listen(socket) {
    socket.onAny((event, ...args) => this.#isOpen(socket) && this.#receive(socket, event, ...args));
    socket.on("disconnect", () => this.#isOpen(socket) && this.#onDisconnect(socket));
    socket.on("connect_error", ({ message }) => {
      if (!this.#isOpen(socket)) return;
      if (message === "unauthorized") this.#end(message);
      else if (!socket.active) this.#connectLater(socket);
    });
    return socket;
  }

  #isOpen(socket) {
    return !this.hasEnded && (socket === this.#current || socket === this.#next);
  }

  #receive(socket, event, ...args) {
    const [data] = args;
    if (event === "ready") this.#onReady(socket, data);
    else if (event === "session_ended") this.#end(data.reason);
    else if (event === "draining") this.#onDraining(socket, data);
    else if (event === "notification") this.#onNotification(data);
    else if (event === "head") this.#onHead(data);
    else if (socket === this.#current) this.#call(event, ...args);
  }

  /** Each socket sends the notifications after `last` in order and without a hole, so the first to bring a number is right. */
  #onNotification(notification) {
    if (this.last !== null && notification.seq <= this.last) return;
    this.last = notification.seq;
    this.#call("notification", notification);
  }

  /** Gets the missing notifications, page by page. */
  #onHead({ head }) {
    if (this.last === null || head <= this.last) return;
    this.#current.emit("sync", { after: this.last }, ({ items, head: newest, recovered }) => {
      items?.forEach((notification) => this.#onNotification(notification));
      if (recovered === false) this.#skipTo(newest);
      else if (items?.length) this.#onHead({ head: newest });
    });
  }

  /** Skips notifications that are no longer stored. */
  #skipTo(head) {
    this.last = Math.max(this.last, head);
    this.#call("missed", { head });
  }

  async #onReady(socket, data) {
    const { id } = socket;
    const repeated = new Set();
    do {
      const waiting = this.#requestsExcept(repeated);
      waiting.forEach((request) => repeated.add(request));
      await Promise.all(waiting.map((request) => repeat(socket, request))); // meanwhile the page may make further ones
    } while (this.#requestsExcept(repeated).length);
    if (!this.#isOpen(socket) || socket.id !== id) return; // it was disconnected meanwhile
    const handedOver = this.isLive;
    if (socket === this.#next) this.#replaceCurrent().disconnect();
    this.isLive = true;
    this.last ??= data.head;
    this.#call("live", { ...data, handedOver });
    if (!data.recovered) this.#skipTo(data.head);
  }

  #requestsExcept(repeated) {
    return [...this.#requests.values()].filter((request) => !repeated.has(request));
  }

  #onDraining(socket, { reconnect_in_ms, reason }) {
    if (socket === this.#next) {
      socket.disconnect();
      this.#next = this.#open(reason);
    } else if (!this.#isDraining) {
      this.#isDraining = true;
      socket.io.reconnection(false);
      setTimeout(() => {
        if (this.#isOpen(socket) && !this.#next) this.#next = this.#open(reason);
      }, reconnect_in_ms);
    }
  }

  #onDisconnect(socket) {
    if (socket === this.#current) {
      this.isLive = false;
      if (this.#isDraining) {
        this.#next ??= this.#open();
        this.#replaceCurrent();
      } else if (!socket.active) this.#connectLater(socket);
      this.#call("waiting");
    } else if (!socket.active) this.#connectLater(socket);
  }

  /** Makes the next socket the current one and returns the previous one. */
  #replaceCurrent() {
    const previous = this.#current;
    this.#current = this.#next;
    // If it has to reconnect, it replaces nothing any more.
    const { io } = this.#current;
    io.opts.query = this.#query;
    io.reconnectionDelay(this.#reconnection.reconnectionDelay);
    io.reconnectionDelayMax(this.#reconnection.reconnectionDelayMax);
    this.#next = null;
    this.#isDraining = false;
    return previous;
  }

  #connectLater(socket) {
    setTimeout(() => this.#isOpen(socket) && socket.connect(), RECONNECT_MS * (1 + Math.random()));
  }

  #end(reason) {
    this.close();
    this.#call("ended", { reason });
  }

  #call(event, ...args) {
    for (const handler of this.#handlers[event] ?? []) handler(...args);
  }
}

/** Sends a request over another socket and waits for its answer, but not for long. */
async function repeat(socket, [event, data, onAnswer]) {
  const answer = await socket.timeout(ANSWER_MS).emitWithAck(event, data).catch(() => null);
  if (answer) onAnswer(answer);
}
