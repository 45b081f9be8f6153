"""What an end user owns, by confirmed actions."""

from portal.db.engine import run_sql
from portal.transactions.jobs import run_lanes, watch_chains
from portal.transactions.queries import list_holdings
from tests.actions import Stage


async def owned(stage: Stage) -> list[str]:
    return [each.amount for each in await list_holdings(stage.cast.organization_id, stage.ada_id)]


async def test_what_is_confirmed_adds_up_and_nothing_else_counts(stage: Stage) -> None:
    stage.node.fund(stage.signer_address)
    policy_id = await stage.policy(0)
    first = await stage.propose_mint(policy_id=policy_id)
    await stage.propose_mint(policy_id=policy_id, amount=str(25 * 10**17))
    await run_lanes()
    assert await owned(stage) == [], "what was sent is not owned yet"
    stage.node.mine(3)
    await watch_chains()
    await watch_chains()
    assert await owned(stage) == [str(525 * 10**17)]
    await run_sql("UPDATE transaction SET outcome = 'reverted' WHERE action = {}", first.id)
    assert await owned(stage) == [str(25 * 10**17)], "what reverted gave nothing"
    assert await list_holdings(stage.cast.organization_id, stage.cast.alice.actor.id or stage.ada_id) == []
