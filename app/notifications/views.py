"""The HTTP API of a user's notifications."""

from typing import Any, Literal

from flask import Blueprint, Response
from pydantic import BaseModel, Field

from app.auth.guards import login_required, require_user
from app.core.extensions import extension
from app.core.timestamps import iso
from app.http.addresses import public_address
from app.http.api import MAX_ID, Body, Query, json_response, no_content, operation
from app.notifications.channel_store import Channel, ChannelDelivery
from app.notifications.channels import Channels
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


class ChannelBody(Body):
    kind: Literal["webhook", "email", "feed"]
    url: str = Field("", max_length=2000, description="The https address of a webhook.")


class ChannelView(BaseModel):
    id: int
    kind: Literal["webhook", "email", "feed"]
    url: str | None
    created_at: str
    disabled_at: str | None
    disabled_reason: str | None


class CreatedChannelView(ChannelView):
    secret: str | None = Field(description="Verifies the signatures of a webhook. It is not shown again.")


class ChannelsView(BaseModel):
    channels: list[ChannelView]


class DeliveryView(BaseModel):
    notification_seq: int | None = Field(description="The number of the notification, null for a test.")
    attempted_at: str | None
    attempt: int = Field(description="The number of attempts so far.")
    status: int | None = Field(description="The status of the response to the last attempt.")
    error: str | None
    finished_at: str | None = Field(description="When it was accepted or given up; null while another attempt follows.")


class DeliveriesView(BaseModel):
    deliveries: list[DeliveryView]


class TestDeliveryView(BaseModel):
    delivery: DeliveryView


def channels() -> Channels:
    return extension(Channels, "channels")


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


@blueprint.get("/channels")
@operation("List the channels to which your notifications also go", returns={200: ChannelsView}, errors=(401,))
@login_required
def list_channels() -> Response:
    return json_response(ChannelsView(channels=[_channel(found) for found in channels().list(require_user().id)]))


@blueprint.post("/channels", endpoint="create_channel")
@operation("Add a channel for your notifications", body=ChannelBody, returns={201: CreatedChannelView}, errors=(401, 409))
@login_required
def create_channel(body: ChannelBody) -> Response:
    """The secret of a webhook and the address of a feed are in this response only."""
    created = channels().create(require_user().id, body.kind, body.url)
    fields = vars(_channel(created.channel))
    if created.token:
        fields["url"] = feed_address(created.token)
    return json_response(CreatedChannelView(**fields, secret=created.secret), 201)


@blueprint.delete("/channels/<id:channel_id>", endpoint="delete_channel")
@operation("Delete a channel; nothing is delivered over it afterwards", returns={204: None}, errors=(401, 404))
@login_required
def delete_channel(channel_id: int) -> Response:
    channels().delete(require_user().id, channel_id)
    return no_content()


@blueprint.post("/channels/<id:channel_id>/test", endpoint="test_channel")
@operation("Send a test over a channel", returns={202: TestDeliveryView}, errors=(401, 404, 409))
@login_required
def test_channel(channel_id: int) -> Response:
    return json_response(TestDeliveryView(delivery=_delivery(channels().test(require_user().id, channel_id))), 202)


@blueprint.get("/channels/<id:channel_id>/deliveries", endpoint="deliveries")
@operation("List the newest deliveries over a channel, newest first", returns={200: DeliveriesView}, errors=(401, 404))
@login_required
def list_deliveries(channel_id: int) -> Response:
    found = channels().deliveries(require_user().id, channel_id)
    return json_response(DeliveriesView(deliveries=[_delivery(one) for one in found]))


def feed_address(token: str) -> str:
    return public_address("web.feed", token=token)


def _channel(channel: Channel) -> ChannelView:
    return ChannelView(
        id=channel.id,
        kind=channel.kind,
        url=channel.url,
        created_at=iso(channel.created_at),
        disabled_at=iso(channel.disabled_at) if channel.disabled_at else None,
        disabled_reason=channel.disabled_reason,
    )


def _delivery(delivery: ChannelDelivery) -> DeliveryView:
    return DeliveryView(
        notification_seq=delivery.seq,
        attempted_at=iso(delivery.attempted_at) if delivery.attempted_at else None,
        attempt=delivery.attempts,
        status=delivery.status,
        error=delivery.error,
        finished_at=iso(delivery.finished_at) if delivery.finished_at else None,
    )
