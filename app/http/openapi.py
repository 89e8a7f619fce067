"""`/api/openapi.json`: the description of the API (OpenAPI 3.1), generated from the views."""

import re
from typing import Any

from flask import Blueprint, Flask, Response, current_app, jsonify
from pydantic import BaseModel
from pydantic.json_schema import models_json_schema
from werkzeug.routing import Rule, UnicodeConverter

from app.core.version import VERSION
from app.http.api import IdConverter, Operation
from app.http.examples import VALUES, example

blueprint = Blueprint("openapi", __name__)

PATH_SCHEMAS: dict[type, dict[str, Any]] = {
    UnicodeConverter: {"type": "string", "minLength": 1},
    IdConverter: {"type": "integer", "minimum": 0},
}
TOKENS = "An API token from the settings page. The scope `read` allows GET, the scope `write` everything that accepts tokens."
SAFE_METHODS = {"GET", "HEAD", "OPTIONS"}
# The tag of an operation is that of its blueprint.
TAGS = {
    "repositories": ("Repositories", "Repositories that you follow, their reports and analyses"),
    "notifications": ("Notifications", "What has changed, which of it you want to know, and where it is delivered"),
    "auth": ("Accounts", "Registration, sign-in, sessions and API tokens"),
    "analytics": ("Analytics", "Events of visitors, and their consent"),
    "insights": ("Analytics", ""),
    "exports": ("Analytics", ""),
    "fleet": ("Fleet", "The running instances, for administrators"),
}


class FieldError(BaseModel):
    field: str
    message: str


class ProblemDetails(BaseModel):
    """Problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    instance_id: str
    request_id: str | None
    errors: list[FieldError] = []


@blueprint.get("/api/openapi.json")
def document() -> Response:
    return jsonify(describe(current_app))


def describe(app: Flask) -> dict[str, Any]:
    described = [(rule, found) for rule in app.url_map.iter_rules() if (found := _operation(app, rule))]
    references, components = _schemas([found for _, found in described])
    paths: dict[str, Any] = {}
    for rule, found in sorted(described, key=lambda pair: pair[0].rule):
        path = re.sub(r"<(?:[^<>:]+:)?(\w+)>", r"{\1}", rule.rule)
        for method in (rule.methods or set()) - {"HEAD", "OPTIONS"}:
            paths.setdefault(path, {})[method.lower()] = _describe(rule, method, found, references)
    _add_examples(paths, components["$defs"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "RepoRadar", "version": VERSION},
        "tags": [{"name": name, "description": description} for name, description in TAGS.values() if description],
        "paths": paths,
        "components": {
            "schemas": components["$defs"],
            "securitySchemes": {
                "session": {"type": "apiKey", "in": "cookie", "name": app.config["SESSION_COOKIE_NAME"]},
                "token": {"type": "http", "scheme": "bearer", "description": TOKENS},
            },
        },
    }


def _operation(app: Flask, rule: Rule) -> Operation | None:
    return getattr(app.view_functions[rule.endpoint], "operation", None)


def _schemas(operations: list[Operation]) -> tuple[dict[Any, Any], dict[str, Any]]:
    models: list[tuple[type[BaseModel], Any]] = [(ProblemDetails, "serialization")]
    for found in operations:
        models += [(found.body, "validation")] if found.body else []
        models += [(model, "serialization") for model in found.returns.values() if isinstance(model, type)]
    return models_json_schema(list(dict.fromkeys(models)), ref_template="#/components/schemas/{model}")


def _describe(rule: Rule, method: str, found: Operation, references: dict[Any, Any]) -> dict[str, Any]:
    responses = {str(status): _success(model, references) for status, model in found.returns.items()}
    responses |= {str(status): _problem(references) for status in _errors(method, found)}
    blueprint_name = rule.endpoint.partition(".")[0]
    tag, _ = TAGS.get(blueprint_name, (blueprint_name.capitalize(), ""))
    description: dict[str, Any] = {
        "tags": [tag],
        "summary": found.summary,
        "operationId": rule.endpoint,
        "responses": responses,
    }
    if parameters := [*_path_parameters(rule), *_query_parameters(found)]:
        description["parameters"] = parameters
    if found.body:
        content = {"application/json": {"schema": references[found.body, "validation"]}}
        description["requestBody"] = {"required": True, "content": content}
    if found.requires_sign_in:
        description["security"] = [{"session": []}, *([{"token": []}] if found.accepts_tokens else [])]
    return description


def _add_examples(paths: dict[str, Any], schemas: dict[str, Any]) -> None:
    """Add an example to each body, each successful response and each parameter."""
    for operation in (described for methods in paths.values() for described in methods.values()):
        responses = [response for status, response in operation["responses"].items() if status < "300"]
        for part in (operation.get("requestBody", {}), *responses):
            if content := part.get("content", {}).get("application/json"):
                content["example"] = example(content["schema"], schemas)
        for parameter in operation.get("parameters", ()):
            parameter["example"] = VALUES.get(parameter["name"]) or example(parameter["schema"], schemas, parameter["name"])


def _path_parameters(rule: Rule) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "schema": PATH_SCHEMAS[type(rule._converters[name])]}
        for name in sorted(rule.arguments)
    ]


def _query_parameters(found: Operation) -> list[dict[str, Any]]:
    schema = found.query.model_json_schema() if found.query else {}
    return [
        {"name": name, "in": "query", "required": name in schema.get("required", ()), "schema": described}
        for name, described in schema.get("properties", {}).items()
    ]


def _errors(method: str, found: Operation) -> list[int]:
    """Return the errors of the view plus the implicit ones.

    These are an unavailable store, a cross-site request, too many requests of one token, and an invalid query or body.
    """
    errors = {*found.errors, 503}
    if method not in SAFE_METHODS:
        errors.add(403)
    if found.requires_sign_in and found.accepts_tokens:
        errors.add(429)
    if found.query:
        errors.add(422)
    if found.body:
        errors |= {400, 413, 415, 422}
    return sorted(errors)


def _success(model: type[BaseModel] | str | None, references: dict[Any, Any]) -> dict[str, Any]:
    if model is None:
        return {"description": "Done"}
    if isinstance(model, str):
        return {"description": "A file", "content": {model: {"schema": {"type": "string"}}}}
    content = {"application/json": {"schema": references[model, "serialization"]}}
    return {"description": model.__doc__ or model.__name__, "content": content}


def _problem(references: dict[Any, Any]) -> dict[str, Any]:
    content = {"application/problem+json": {"schema": references[ProblemDetails, "serialization"]}}
    return {"description": "Problem details", "content": content}
