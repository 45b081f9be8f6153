"""Which of several signers sends a call: the one with the least to do. Chosen when it is proposed, for good."""

from collections import Counter
from collections.abc import Collection
from uuid import UUID

import msgspec

from portal.chain.abi import Abi
from portal.chain.compiler import TEMPLATES
from portal.chain.tables import SignerStatus
from portal.db.engine import run_sql

MEMBERS = """
    SELECT s.signer_group, s.id, s.name, s.address, s.status, s.trouble IS NOT NULL OR EXISTS (
               SELECT FROM pause p WHERE p.organization = s.organization AND p.scope = 'signer'
               AND p.subject = s.id::text AND p.ended_at IS NULL) AS hindered
    FROM signer s WHERE s.signer_group = ANY({}::uuid[]) AND s.status = 'active' AND s.purpose = 'sends' ORDER BY s.id
"""
UNFINISHED = """
    SELECT signer, count(*) FROM (
        SELECT signer FROM action WHERE status = 'proposed' AND signer = ANY({}::uuid[])
        UNION ALL
        SELECT signer FROM action WHERE status = 'approved' AND queued_at IS NULL AND signer = ANY({}::uuid[])
        UNION ALL
        SELECT lane.signer FROM lane JOIN transaction t ON t.lane = lane.id
        WHERE lane.signer = ANY({}::uuid[])
          AND t.status NOT IN ('finalized', 'refused', 'rejected', 'expired', 'cancelled', 'displaced')
    ) unfinished GROUP BY signer
"""


class Sender(msgspec.Struct, frozen=True, kw_only=True):
    """A signer that may send a call. `hindered` while it cannot sign or is paused."""

    id: UUID
    name: str
    address: str | None
    status: str
    hindered: bool = False


class Senders:
    """The signers of some groups, and how much each still has to do; counts on with each choice."""

    def __init__(self, groups: dict[UUID, list[Sender]], unfinished: Counter[UUID]) -> None:
        self._groups = groups
        self._unfinished = unfinished

    def choose(self, own: Sender, group_id: UUID | None) -> Sender:
        """Of the contract's own signer and its group's active ones the least busy; a hindered one only if all are.

        The own one, whatever its state, where it has no group, or where nobody in it is active.
        """
        members = {each.id: each for each in self._groups.get(group_id, [])} if group_id else {}
        if own.status == SignerStatus.ACTIVE and own.id not in members:
            members[own.id] = own
        if not members:
            return own
        chosen = min(members.values(), key=lambda each: (each.hindered, self._unfinished[each.id], each.id))
        self._unfinished[chosen.id] += 1
        return chosen


async def read_senders(group_ids: Collection[UUID], own_ids: Collection[UUID]) -> Senders:
    """The groups' active signers with their unfinished actions and transactions, and those of `own_ids`."""
    groups: dict[UUID, list[Sender]] = {id: [] for id in group_ids}
    if not groups:
        return Senders({}, Counter())
    for row in await run_sql(MEMBERS, list(groups)):
        groups[row.pop("signer_group")].append(Sender(**row))
    ids = list({each.id for members in groups.values() for each in members} | set(own_ids))
    counts = await run_sql(UNFINISHED, ids, ids, ids)
    return Senders(groups, Counter({row["signer"]: row["count"] for row in counts}))


def is_shared(template: str | None, abi: Abi, function: str) -> bool:
    """Whether other signers than the contract's own may send `function`.

    Of a contract that was registered by its address, any; of ours those that its owner can let others call, which it
    could not in the first edition of the template.
    """
    if template is None:
        return True
    return function in TEMPLATES[template].shared_functions and can_let_others(abi)


def can_let_others(abi: Abi) -> bool:
    """Whether the contract's owner can let another address call what only it may otherwise (`set_minter`)."""
    return any(element.get("name") == "set_minter" for element in abi)
