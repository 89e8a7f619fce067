"""The page that adds many repositories: it finds the addresses in a text, lets the user select, and shows one result per line."""

from typing import Any

from flask import current_app, request
from werkzeug import Response

from app.auth.guards import require_user
from app.core.errors import Invalid, Problem
from app.http.api import MAX_BODY_BYTES
from app.repositories.found_addresses import MAX_FOUND
from app.repositories.service import NEW
from app.web import forms
from app.web.pages import blueprint, render, sign_in_required
from app.web.repositories import repositories


@blueprint.get("/import")
@sign_in_required
def import_page() -> Response:
    return _render()


@blueprint.post("/import")
@sign_in_required
def find_addresses() -> Response:
    if request.mimetype == "multipart/form-data":  # the number of its fields is limited, so it may be larger than other forms
        request.max_content_length = request.max_form_memory_size = MAX_BODY_BYTES
    text = forms.text("text")
    try:
        found = repositories().find_in(require_user().id, text)
        if not found:
            raise Invalid.field("text", "No address of a repository was found. Enter one address per line.")
    except Problem as problem:
        return _render(forms.correctable(problem), text=text)
    return _render(text=text, found=found, selectable=sum(one.status == NEW for one in found))


@blueprint.post("/import/addresses")
@sign_in_required
def import_addresses() -> Response:
    selected = request.form.getlist("addresses")
    if not selected:
        return _render(Invalid("Select at least one repository."))
    return _render(results=repositories().import_from(require_user().id, "\n".join(selected)))


def _render(problem: Problem | None = None, **context: Any) -> Response:
    has_roots = bool(current_app.config["REPORADAR"].repository_roots)
    return render("import.html", problem, max_found=MAX_FOUND, local_allowed=has_roots, **context)
