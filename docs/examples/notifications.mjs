// Receives the notifications of a user as they arrive, each once and in order. Works in Node (npm install socket.io-client) and in browsers,
// there on pages of the same site.

import { io } from "socket.io-client";

/** Returns the session cookie as the value of a `Cookie` header. In a browser it is empty, because the browser keeps cookies to itself. */
export async function signIn(url, email, password) {
  const response = await fetch(`${url}/api/auth/login`, {
    method: "POST",
    headers: { "Content-Type": "application/json" },
    body: JSON.stringify({ email, password }),
  });
  if (!response.ok) throw new Error(`Signing in failed with status ${response.status}.`);
  return response.headers.getSetCookie().map((cookie) => cookie.split(";")[0]).join("; ");
}

/**
 * Calls `show` for each notification after the number `after`; without it, from now on. `log` gets a line about each change of the
 * connection. Returns a promise of the reason why the session has ended.
 */
export async function listen({ url, cookie, after, show, log = console.error }) {
  const headers = cookie ? { Cookie: cookie } : {}; // a browser sends it by itself
  let last = after ?? (await get("")).head;
  let work = Promise.resolve();

  const socket = io(url, {
    extraHeaders: headers,
    auth: (send) => send({ after: last }), // a function, because it is called for each connection
    transports: ["websocket"], // also works where the balancer does not route requests of one socket to one instance
  });

  socket.on("notification", (notification) => {
    inTurn(() => (notification.seq === last + 1 ? take(notification) : catchUp(notification.seq)));
  });
  socket.on("ready", ({ head }) => inTurn(() => catchUp(head)));
  socket.on("head", ({ head }) => inTurn(() => catchUp(head)));
  // The instance stops, and the client connects to another one by itself.
  socket.on("draining", ({ reconnect_in_ms }) => log(`draining: connecting again in about ${reconnect_in_ms} ms`));

  return new Promise((resolve) => {
    socket.on("session_ended", ({ reason }) => end(reason));
    socket.on("connect_error", ({ message }) => {
      // `active`: the client tries again. It does not after a refusal by the server.
      if (socket.active) log(`connect_error: ${message}`);
      else end(message);
    });

    function end(reason) {
      socket.disconnect();
      inTurn(() => resolve(reason));
    }
  });

  /** Runs a step after the ones before it, so that requests and events do not overtake each other. */
  function inTurn(step) {
    work = work.then(step).catch((error) => log(`cannot get notifications: ${error.message}`)); // the next event `head` tries again
  }

  async function take(notification) {
    await show(notification);
    last = notification.seq;
  }

  /** Gets the notifications up to `head` over HTTP, if there are any that the socket has not brought. */
  async function catchUp(head) {
    while (last < head) {
      const { items } = await get(`?after=${last}&limit=100`);
      for (const notification of items) await take(notification);
      if (!items.length) last = head; // they are no longer stored
    }
  }

  async function get(query) {
    const response = await fetch(`${url}/api/notifications${query}`, { headers });
    if (!response.ok) throw new Error(`status ${response.status}`);
    return response.json();
  }
}
