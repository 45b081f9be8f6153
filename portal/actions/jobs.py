"""What the worker does for actions. Each is safe to run twice, or at once in two workers."""

from portal.actions import decisions, simulations


async def simulate_actions() -> int:
    """Simulate what waits, approving where the policy asks nobody; returns how many actions."""
    return await simulations.simulate_waiting()


async def expire_actions() -> int:
    """Expire what nobody decided in time; returns how many actions."""
    return await decisions.expire_due()
