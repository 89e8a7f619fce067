// Prints the notifications of a user as they arrive:
//
//   npm install socket.io-client
//   REPORADAR_URL=https://radar.example.org REPORADAR_EMAIL=ada@example.org REPORADAR_PASSWORD=... node print-notifications.mjs
//
// The number of the last notification is kept in the file `last-notification`, so the next start continues there. The first start prints
// new ones only. The program ends with status 1 when its session ends.

import { existsSync, readFileSync, writeFileSync } from "node:fs";
import { listen, signIn } from "./notifications.mjs";

const LAST = "last-notification";
const { REPORADAR_URL, REPORADAR_EMAIL, REPORADAR_PASSWORD } = process.env;

const url = REPORADAR_URL.replace(/\/$/, "");
const reason = await listen({
  url,
  cookie: await signIn(url, REPORADAR_EMAIL, REPORADAR_PASSWORD),
  after: existsSync(LAST) ? Number(readFileSync(LAST, "utf8")) : undefined,
  show: ({ seq, type, title }) => {
    console.log(seq, type, title);
    writeFileSync(LAST, String(seq));
  },
});
console.error(`The session has ended: ${reason}`);
process.exitCode = 1;
