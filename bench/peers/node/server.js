// N, an equivalent in Node: express, express-session, connect-redis with AES-256-GCM, and socket.io with its Redis adapter.

import { createCipheriv, createDecipheriv, randomBytes } from "node:crypto";
import { createSocket } from "node:dgram";
import { createServer } from "node:http";
import { createAdapter, createShardedAdapter } from "@socket.io/redis-adapter";
import { RedisStore } from "connect-redis";
import express from "express";
import session from "express-session";
import { createClient } from "redis";
import { Server } from "socket.io";

const { PORT, REDIS_URL, SESSION_SECRET, SESSION_ENCRYPTION_KEY } = process.env;
const key = Buffer.from(SESSION_ENCRYPTION_KEY, "hex");

const serializer = {
  stringify(value) {
    const nonce = randomBytes(12);
    const cipher = createCipheriv("aes-256-gcm", key, nonce);
    const sealed = Buffer.concat([cipher.update(JSON.stringify(value)), cipher.final()]);
    return Buffer.concat([nonce, cipher.getAuthTag(), sealed]).toString("base64");
  },
  parse(text) {
    const record = Buffer.from(text, "base64");
    const decipher = createDecipheriv("aes-256-gcm", key, record.subarray(0, 12));
    decipher.setAuthTag(record.subarray(12, 28));
    return JSON.parse(Buffer.concat([decipher.update(record.subarray(28)), decipher.final()]));
  },
};

const client = await createClient({ url: REDIS_URL }).connect();
const subscriber = await client.duplicate().connect();

const app = express();
app.get("/bench/bare", (_, response) => response.json({ ok: true }));
app.get("/bench/slow", (_, response) => setTimeout(() => response.json({ ok: true }), 3000));
app.use(
  session({
    store: new RedisStore({ client, serializer }),
    secret: SESSION_SECRET,
    resave: false,
    saveUninitialized: false,
    cookie: { maxAge: 86_400_000 },
  }),
);
app.post("/bench/login", (request, response) => {
  Object.assign(request.session, { user_id: 1, changes: 0 });
  response.status(204).end();
});
app.get("/bench/read", (request, response) => {
  const { user_id } = request.session;
  response.status(user_id ? 200 : 401).json({ user_id });
});
app.get("/bench/change", (request, response) => {
  request.session.changes += 1;
  response.json({ changes: request.session.changes });
});

const server = createServer(app);
const createOne = process.argv[2] === "sharded" ? createShardedAdapter : createAdapter; // one channel per room
const io = new Server(server, { adapter: createOne(client, subscriber) });
io.on("connection", (socket) => {
  const { room } = socket.handshake.auth;
  if (room) socket.join(room);
});
process.on("SIGTERM", () => io.close(() => process.exit())); // closes sockets at once and finishes requests
server.listen(Number(PORT), "127.0.0.1");

// Publishes messages on request, as in ../publisher.py.
const requests = createSocket("udp4");
requests.on("message", (request) => {
  const [userId, first, count] = request.toString().split(" ").map(Number);
  for (let id = first; id < first + count; id += 1) {
    io.to(`user:${userId}`).emit("analysis", { id, repository_id: 1, status: "running", progress: 40, step: "history" });
  }
});
requests.bind(Number(PORT), "127.0.0.1");
