"""Background work on accounts."""

from portal.accounts import idempotency, sessions, throttle


async def prune_accounts() -> int:
    """Delete what nobody asks for any more: answers after a day, forgotten failures, long-ended sessions."""
    return await idempotency.prune() + await throttle.prune() + await sessions.prune()
