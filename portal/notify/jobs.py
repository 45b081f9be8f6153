"""What the worker does for subscribers. Each is safe to run twice, or at once in two workers."""

from portal.notify import publishing


async def publish_events() -> int:
    """Publish all that was recorded; returns how many events."""
    count = 0
    while published := await publishing.publish():
        count += published
    return count
