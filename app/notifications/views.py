"""The HTTP API of a user's notifications."""

from typing import Any

from flask import Blueprint, Response
from pydantic import BaseModel, Field

from app.auth.guards import login_required, require_user
from app.core.extensions import extension
from app.http.api import MAX_ID, Body, Query, json_response, no_content, operation
from app.notifications.service import PAGE_SIZE, Notifications

blueprint = Blueprint("notifications", __name__, url_prefix="/api/notifications")


class NotificationView(BaseModel):
    seq: int
    type: str
    title: str
    data: dict[str, Any]
    created_at: str
    read: bool


class NotificationsView(BaseModel):
    items: list[NotificationView]
    head: int


class NotificationsQuery(Query):
    after: int = Field(0, ge=0, le=MAX_ID)
    limit: int = Field(PAGE_SIZE, ge=1, le=PAGE_SIZE)


class ReadBody(Body):
    up_to: int = Field(ge=0, le=MAX_ID)


class SubscriptionView(BaseModel):
    types: dict[str, bool]
    inherited: bool


class SubscriptionBody(Body):
    types: dict[str, bool] = Field(default_factory=dict, max_length=20, description="The types to switch; others stay.")
    inherited: bool = Field(False, description="Return to the default, unless one of the types differs from it.")


def service() -> Notifications:
    return extension(Notifications, "notifications")


@blueprint.get("")
@operation(
    "List the notifications after a number, oldest first",
    query=NotificationsQuery,
    returns={200: NotificationsView},
    errors=(401,),
)
@login_required
def list_notifications(query: NotificationsQuery) -> Response:
    user_id = require_user().id
    page = service().after(user_id, query.after, query.limit)
    items = [NotificationView(**item.payload(), read=page.inbox.has_read(item.seq)) for item in page.items]
    return json_response(NotificationsView(items=items, head=page.head))


@blueprint.post("/read", endpoint="read")
@operation("Mark all notifications up to a number as read", body=ReadBody, returns={204: None}, errors=(401,))
@login_required
def mark_read(body: ReadBody) -> Response:
    service().mark_read(require_user().id, body.up_to)
    return no_content()


@blueprint.get("/subscription")
@operation("Get which types of notifications you get by default", returns={200: SubscriptionView}, errors=(401,))
@login_required
def subscription() -> Response:
    return json_response(SubscriptionView(**vars(service().subscription(require_user().id))))


@blueprint.put("/subscription", endpoint="subscribe")
@operation(
    "Choose which types of notifications you get by default",
    body=SubscriptionBody,
    returns={200: SubscriptionView},
    errors=(401,),
)
@login_required
def subscribe(body: SubscriptionBody) -> Response:
    chosen = service().subscribe(require_user().id, body.types, inherit=body.inherited)
    return json_response(SubscriptionView(**vars(chosen)))
