"""What webhooks and deliveries can be. Pure."""

from enum import StrEnum


class WebhookStatus(StrEnum):
    ACTIVE = "active"
    DISABLED = "disabled"
    """By a member, by the receiver (410), or because it failed for five days. Nothing is sent, new events are not kept
    for it, and what waits goes on when it is enabled."""
    DELETED = "deleted"


class DeliveryStatus(StrEnum):
    WAITING = "waiting"
    DELIVERED = "delivered"
    FAILED = "failed"
    """Given up after the last attempt of the schedule, or because the receiver is gone."""
