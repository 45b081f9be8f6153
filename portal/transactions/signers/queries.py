"""What one signer does and has: where it sends, for which contracts, how far it is, and what it holds there."""

from datetime import datetime
from uuid import UUID

import msgspec

from portal.db.engine import run_sql
from portal.db.paging import Count

MOST_COUNTED = 1000

CHAINS = """
    WITH place AS (
        SELECT c.chain
        FROM contract c JOIN signer s ON s.organization = {} AND s.id = {} AND c.organization = s.organization
        WHERE c.signer = s.id OR c.signer_group = s.signer_group
        UNION SELECT chain FROM lane WHERE signer = {}
    )
    SELECT chain.id AS chain_id, chain.name AS chain_name, chain.currency, chain.explorer_url,
           reading.balance_wei::text, reading.read_at, lane.id AS lane_id, lane.next_nonce,
           reading.transaction_count AS chain_nonce,
           (SELECT count(*) FROM transaction t WHERE t.lane = lane.id
            AND t.status NOT IN ('finalized', 'refused', 'rejected', 'expired', 'cancelled', 'displaced')) AS unfinished
    FROM place JOIN chain ON chain.id = place.chain
    LEFT JOIN lane ON lane.signer = {} AND lane.chain = chain.id
    LEFT JOIN signer_reading reading ON reading.signer = {} AND reading.chain = chain.id
    ORDER BY chain.name
"""
CONTRACTS = """
    SELECT c.id, c.name, c.status, chain.name AS chain_name, c.signer = s.id AS is_own
    FROM contract c JOIN signer s ON s.organization = {} AND s.id = {} AND c.organization = s.organization
    JOIN chain ON chain.id = c.chain
    WHERE c.signer = s.id OR c.signer_group = s.signer_group ORDER BY c.name, c.id LIMIT 100
"""


class SignerOnChain(msgspec.Struct, frozen=True, kw_only=True):
    """One signer on one chain where it sends."""

    chain_id: int
    chain_name: str
    currency: str
    explorer_url: str | None
    balance_wei: str | None
    """As of `read_at`; None until it was read, within a minute."""
    read_at: datetime | None
    lane_id: UUID | None
    next_nonce: int | None
    """What its next transaction gets; None until it has sent one."""
    chain_nonce: int | None
    """What the chain expects next, as of `read_at`."""
    unfinished: int
    """Transactions that are not over yet."""


class SentContract(msgspec.Struct, frozen=True, kw_only=True):
    id: UUID
    name: str
    status: str
    chain_name: str
    is_own: bool
    """Whether it is the contract's own signer; else it sends for it by its group."""


async def list_chains_of(organization_id: UUID, signer_id: UUID) -> list[SignerOnChain]:
    """Each chain on which the signer sends or has sent, by name."""
    return [msgspec.convert(row, SignerOnChain) for row in await run_sql(CHAINS, organization_id, *[signer_id] * 4)]


async def list_contracts_of(organization_id: UUID, signer_id: UUID) -> list[SentContract]:
    """The contracts whose calls it sends, by name; at most 100."""
    return [msgspec.convert(row, SentContract) for row in await run_sql(CONTRACTS, organization_id, signer_id)]


async def count_open_of(organization_id: UUID, signer_id: UUID) -> Count:
    """Open proposals that name the signer, up to 1,000."""
    rows = await run_sql(
        """SELECT count(*) FROM (
             SELECT FROM action WHERE organization = {} AND signer = {} AND status = 'proposed' LIMIT {}) AS open""",
        *(organization_id, signer_id, MOST_COUNTED + 1),
    )
    return Count.up_to(MOST_COUNTED, rows[0]["count"])
