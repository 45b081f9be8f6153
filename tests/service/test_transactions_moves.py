"""Compare-and-set: what somebody else has changed meanwhile is neither moved nor held, and nobody is told so."""

from portal.db.engine import run_sql, transaction
from portal.transactions.moves import Step, hold_many, list_work, move, move_many
from portal.transactions.service import queue_approved
from portal.transactions.tables import TransactionStatus as Status
from tests.transactions import Play


async def test_what_is_not_any_more_as_it_was_read_stays_as_it_is(play: Play) -> None:
    action_id = await play.approved_mint()
    await queue_approved()
    (read,) = await list_work("")
    await run_sql("UPDATE transaction SET status = 'expired'")
    async with transaction():
        assert await move_many([Step(work=read, changes={"nonce": 1})], Status.NONCED, "nonced") == []
        assert not await move(read, Status.CANCELLED, "cancelled", {})
        await hold_many([(read, "It waits.")])
    view = await play.view(action_id)
    assert (view.status, view.nonce, view.held) == (Status.EXPIRED, None, False)
    rows = await run_sql("SELECT status, nonce, reason FROM transaction")
    assert rows == [{"status": "expired", "nonce": None, "reason": None}]
    assert await play.audit(view.id) == ["queued"]
