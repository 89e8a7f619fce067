"""Writes docs/api.md from the description of the API: `.venv/bin/python -m scripts.api_page`."""

import json
import re
import shlex
import tempfile
from http import HTTPStatus
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from app import create_app
from app.core import config
from app.http.openapi import describe
from harness.servers import ROOT, embedded_environment

PAGE = ROOT / "docs" / "api.md"
SITE = "https://radar.example.org"
WIDTH = 110
JSON = "application/json"
METHODS = ("GET", "POST", "PUT", "DELETE")  # in this order
LIMITS = {  # by type: the keys of the smallest and largest value or size, and what is counted
    "integer": ("minimum", "maximum", ""),
    "string": ("minLength", "maxLength", " characters"),
    "array": ("minItems", "maxItems", " items"),
}
UNLIMITED = 2**53  # numbers above are not worth mentioning

Schema = dict[str, Any]

INTRODUCTION = """\
# HTTP API

<!-- Written by scripts/api_page.py from /api/openapi.json; do not edit. -->

All operations below `/api/`. A running site has the same description for programs at `/api/openapi.json` (OpenAPI 3.1).
[docs/examples](examples/README.md) contains programs that use it, also with Socket.IO.

Examples of a `report` are abbreviated; [docs/analysis.md](analysis.md) describes what it contains.

## Signing in

Operations that accept an [API token](security.md#api-tokens) are shown with one. It is created under Settings:

```sh
export TOKEN=rr_PSy4wGVBh1yJzYz5vGJ0n4aQ2cTtZk7m3xwLq8RbN1U
curl -H "Authorization: Bearer $TOKEN" https://radar.example.org/api/repositories
```

The others use the session cookie, here kept in a file:

```sh
curl -b cookies.txt -c cookies.txt -H 'Content-Type: application/json' \\
  -d '{"email": "ada@example.org", "password": "three calm herons"}' https://radar.example.org/api/auth/login
curl -b cookies.txt -c cookies.txt https://radar.example.org/api/auth/me
```

## Errors

Bodies are JSON, and so are errors: `application/problem+json` (RFC 9457). `errors` names the invalid fields, if there are any.

```json
{"type": "about:blank", "title": "Unprocessable Entity", "status": 422, "detail": "The body has invalid fields.",
 "errors": [{"field": "up_to", "message": "Field required"}], "instance_id": "instance-1", "request_id": "0a1b2c3d"}
```

| status | meaning |
|---|---|
| 400 | the body is not JSON, or the host of the request is unknown |
| 401 | no session, or an invalid, expired or revoked API token; when signing in: wrong e-mail address or password |
| 403 | sent by a browser from another site, not permitted by the scope of the API token, or for administrators only |
| 404 | there is no such thing, or it is not yours |
| 409 | not in this state; `detail` says why |
| 413 | the body is larger than 1 MiB |
| 415 | the body is not sent as `application/json` |
| 422 | a field or parameter is invalid |
| 429 | too many requests; `Retry-After` says for how many seconds to wait |
| 503 | a dependency of the site is unavailable, or it is busy; try again |
"""


def render(document: Schema) -> str:
    """Return the page for an OpenAPI document whose operations have tags and examples."""
    schemas = document["components"]["schemas"]
    operations = [
        (method, path, methods[method.lower()])
        for path, methods in document["paths"].items()
        for method in METHODS
        if method.lower() in methods
    ]
    parts = [INTRODUCTION]
    for tag in document["tags"]:
        tagged = [found for found in operations if tag["name"] in found[2]["tags"]]
        parts += [f"## {tag['name']}\n\n{tag['description']}.\n", _contents(tagged)]
        parts += [_section(method, path, operation, schemas) for method, path, operation in tagged]
    return "\n".join(parts)


def _contents(operations: list[tuple[str, str, Schema]]) -> str:
    rows = [f"| `{method} {path}` | [{found['summary']}](#{_anchor(found['summary'])}) |\n" for method, path, found in operations]
    return "".join(["| request | what it does |\n|---|---|\n", *rows])


def _anchor(heading: str) -> str:
    """Return the anchor that GitHub gives to a heading."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def _section(method: str, path: str, operation: Schema, schemas: dict[str, Schema]) -> str:
    lines = [f"### {operation['summary']}", "", f"`{method} {path}`{_sign_in(method, operation)}", ""]
    if fields := [*_parameters(operation, schemas), *_body_fields(operation, schemas)]:
        lines += ["| field | in | value |", "|---|---|---|", *fields, ""]
    lines += ["```sh", _curl(method, path, operation), "```", ""]
    errors = [status for status in operation["responses"] if status >= "400"]
    for status in sorted(operation["responses"].keys() - set(errors)):
        lines += _response(status, operation["responses"][status])
    return "\n".join([*lines, f"Errors: {', '.join(errors)}.", ""])


def _accepts_tokens(operation: Schema) -> bool:
    return {"token": []} in operation.get("security", ())


def _sign_in(method: str, operation: Schema) -> str:
    if _accepts_tokens(operation):
        return f": session, or API token with the scope `{'read' if method == 'GET' else 'write'}`"
    return ": session" if operation.get("security") else ""


def _parameters(operation: Schema, schemas: dict[str, Schema]) -> list[str]:
    return [
        _field(found["name"], found["in"], found["schema"], found["required"], schemas)
        for found in operation.get("parameters", ())
    ]


def _body_fields(operation: Schema, schemas: dict[str, Schema]) -> list[str]:
    if "requestBody" not in operation:
        return []
    schema = _resolve(operation["requestBody"]["content"][JSON]["schema"], schemas)
    required = schema.get("required", ())
    return [_field(name, "body", found, name in required, schemas) for name, found in schema.get("properties", {}).items()]


def _field(name: str, place: str, schema: Schema, required: bool, schemas: dict[str, Schema]) -> str:
    schema = _resolve(schema, schemas)
    words = describe_value(schema, schemas)
    if not required:
        default = schema.get("default")
        words += f", {json.dumps(default)} if it is missing" if default not in (None, "") else ", optional"
    if descriptions := [one["description"] for one in (schema, *schema.get("anyOf", ())) if "description" in one]:
        words += f". {descriptions[0]}"
    return f"| `{name}` | {place} | {words.replace('|', chr(92) + '|')} |"


def describe_value(schema: Schema, schemas: dict[str, Schema]) -> str:
    """Return in words which values fit a schema."""
    schema = _resolve(schema, schemas)
    if "anyOf" in schema:
        return " or ".join(describe_value(one, schemas) for one in schema["anyOf"])
    if choices := schema.get("enum", [schema["const"]] if "const" in schema else []):
        return " or ".join(f"`{json.dumps(choice)}`" for choice in choices)
    items = f" of {describe_value(schema['items'], schemas)}" if schema.get("items") else ""
    return f"{schema.get('type', 'any value')}{items}{_limits(schema)}"


def _limits(schema: Schema) -> str:
    smallest, largest, unit = LIMITS.get(schema.get("type", ""), ("", "", ""))
    least, most = schema.get(smallest, 0), schema.get(largest, UNLIMITED)
    if most < UNLIMITED:
        return f", {least} to {most}{unit}"
    return f", at least {least}{unit}" if least > 1 else ""


def _resolve(schema: Schema, schemas: dict[str, Schema]) -> Schema:
    return schemas[schema["$ref"].rpartition("/")[2]] if "$ref" in schema else schema


def _curl(method: str, path: str, operation: Schema) -> str:
    parameters = operation.get("parameters", ())
    url = SITE + path.format_map({found["name"]: found["example"] for found in parameters if found["in"] == "path"})
    if query := {found["name"]: found["example"] for found in parameters if found["in"] == "query"}:
        url += f"?{urlencode(query, safe=',:')}"
    words = ["curl", '-H "Authorization: Bearer $TOKEN"' if _accepts_tokens(operation) else "-b cookies.txt -c cookies.txt"]
    body = operation.get("requestBody", {}).get("content", {}).get(JSON)
    if method != ("POST" if body else "GET"):
        words.append(f"-X {method}")
    if body:
        data = shlex.quote(json.dumps(body["example"], ensure_ascii=False))
        words.append(f"-H 'Content-Type: application/json' \\\n  -d {data} \\\n ")
    return " ".join([*words, shlex.quote(url)])


def _response(status: str, response: Schema) -> list[str]:
    phrase = f"{status} {HTTPStatus(int(status)).phrase}"
    ((media_type, content),) = response.get("content", {"": {}}).items()
    if media_type == JSON:
        return [f"Response {phrase}:", "", "```json", _pretty(content["example"]), "```", ""]
    return [f"Response {phrase}{f': a file of the type `{media_type}`' if media_type else ', without a body'}.", ""]


def _pretty(value: Any, column: int = 0, indent: int = 0) -> str:
    """Return JSON that breaks only what does not fit in a line. `column`: how many characters precede it there."""
    line = json.dumps(value, ensure_ascii=False)
    if column + len(line) <= WIDTH or not value or not isinstance(value, dict | list):
        return line
    inner = indent + 2
    if isinstance(value, dict):
        names = {key: f"{json.dumps(key)}: " for key in value}
        parts = [names[key] + _pretty(found, inner + len(names[key]), inner) for key, found in value.items()]
    else:
        parts = [_pretty(found, inner, inner) for found in value]
    opening, closing = "{}" if isinstance(value, dict) else "[]"
    separator = ",\n" + " " * inner
    return f"{opening}\n{' ' * inner}{separator.join(parts)}\n{' ' * indent}{closing}"


def main() -> None:
    with tempfile.TemporaryDirectory() as folder:
        app = create_app(config.load(embedded_environment(Path(folder))))
        PAGE.write_text(render(describe(app)))


if __name__ == "__main__":
    main()
