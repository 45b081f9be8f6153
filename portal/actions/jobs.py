"""What the worker does for actions. Each is safe to run twice, or at once in two workers."""

from portal.actions import decisions, simulations
from portal.jobs.queue import ring


async def simulate_actions() -> int:
    """Simulate a batch of what waits, approving where the policy asks nobody; returns how many actions.

    Rings itself while there was something to do, so that a long queue is not one long job.
    """
    done = await simulations.simulate_waiting()
    if done:
        ring("simulate_actions")
    return done


async def expire_actions() -> int:
    """Expire what nobody decided in time; returns how many actions."""
    return await decisions.expire_due()
