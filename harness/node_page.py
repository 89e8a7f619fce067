"""Modules of pages in Node instead of a browser: hundreds of sockets of one page, which Chromium would delay on purpose."""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from harness.servers import ROOT, base_environment
from harness.users import User

# Evaluates each line of its input, which may call `import` with addresses below /static/.
PROGRAM = """
import { createInterface } from "node:readline";

const [url, cookie] = process.argv.slice(2);
const { WebSocket } = globalThis;
globalThis.self = globalThis.window = globalThis;
globalThis.location = new URL(url);
globalThis.WebSocket = class extends WebSocket {
  constructor(address) { super(address, { headers: { Cookie: cookie } }); }
};
for await (const line of createInterface({ input: process.stdin })) {
  const { code, argument } = JSON.parse(line);
  const value = eval(code);
  console.log(JSON.stringify((typeof value === "function" ? await value(argument) : value) ?? null));
}
"""


class NodePage:
    """A signed-in page without a document. It needs Node 20 or later."""

    def __init__(self, url: str, user: User) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="reporadar-"))
        shutil.copytree(ROOT / "app" / "web" / "static", self._folder / "static")
        (self._folder / "package.json").write_text('{"type": "module"}')
        (self._folder / "page.js").write_text(PROGRAM)
        self._node = subprocess.Popen(
            ["node", "--experimental-websocket", "page.js", url, user.cookie_header],
            cwd=self._folder,
            env=base_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def evaluate(self, code: str, argument: Any = None) -> Any:
        """Return the value of an expression, or the result of the function that it is, like Playwright's `Page.evaluate`."""
        assert self._node.stdin
        assert self._node.stdout
        code = code.strip().replace('"/static/', f'"{(self._folder / "static").as_uri()}/')
        self._node.stdin.write(json.dumps({"code": code, "argument": argument}) + "\n")
        self._node.stdin.flush()
        return json.loads(self._node.stdout.readline())

    def close(self) -> None:
        self._node.kill()
        self._node.communicate()
        shutil.rmtree(self._folder)
