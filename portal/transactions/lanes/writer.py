"""The one writer of a lane during a pass, and what the writers of all lanes do together.

A lane's own steps come one after the other. What several lanes do at the same time shares one db transaction, and what
they ask of one chain's node one request; each lane still gets the answer to its own question only.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, TypeVar
from uuid import UUID

import asyncpg
import msgspec
from prometheus_client import Counter

from portal import clock
from portal.chain.queries import get_fee_settings
from portal.chain.rpc import Block, Call, Fees, Node, NodeUnavailable, Simulation, get_node
from portal.chain.send_answers import SendAnswer
from portal.chain.tables import FeeStyle, SignerKind
from portal.db.columns import wei
from portal.db.engine import is_unreachable
from portal.jobs.queue import may_begin
from portal.logging import get_logger
from portal.together import Together
from portal.transactions.attempts import Offer, StoredAttempt, lower_gas_limit
from portal.transactions.lanes.leases import Lease, release, take
from portal.transactions.lanes.looking import Task, find_lanes, look_all
from portal.transactions.lanes.noting import Note, Sent, note_all
from portal.transactions.lanes.signing import Claim, NotNow, NotSigned, Order, claim_all, sign_all, sign_filler
from portal.transactions.moves import Work, correlated
from portal.transactions.tables import AttemptKind, ClosingReason

log = get_logger(__name__)
SENDS = Counter("portal_transaction_sends_total", "Sends of signed bytes, by what the node answered", ["answer"])
PASS_SECONDS = 15.0
"""Then a pass begins nothing more, and the next goes on: SAQ gives a job up after 30 s without a sign of life."""
FRESH_SECONDS = 1.0
"""How long a pass takes the newest block and the fees for new."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class Lane(msgspec.Struct, frozen=True, kw_only=True):
    """A lane that was taken, with what its chain's settings say."""

    id: UUID
    lease: Lease
    chain_id: int
    address: str
    signer_kind: SignerKind
    next_nonce: int | None
    most_fee_wei: int | None
    fee_style: FeeStyle


class Now(msgspec.Struct, frozen=True):
    """A chain as it is."""

    head: Block
    fees: Fees
    """What a new transaction offers."""


class Chain:
    """One chain's node during one pass."""

    def __init__(self, chain_id: int) -> None:
        self.node: Node = get_node(chain_id)
        self.send: Together[bytes, SendAnswer] = Together(self.node.send_many)
        self.simulate: Together[Call, Simulation] = Together(self._simulate)
        self._now: Now | NodeUnavailable | None = None
        self._read_at = 0.0
        self._reading = asyncio.Lock()

    async def now(self) -> Now:
        """The newest block and the fees, at most a second old. Raises `NodeUnavailable`, remembered as long."""
        if not self._is_fresh():
            await self._read()
        if isinstance(self._now, Now):
            return self._now
        assert self._now is not None
        raise self._now

    def _is_fresh(self) -> bool:
        return self._now is not None and time.monotonic() - self._read_at <= FRESH_SECONDS

    async def _read(self) -> None:
        async with self._reading:
            if not self._is_fresh():
                try:
                    settings = await get_fee_settings(self.node.chain_id)
                    self._now = Now(*await asyncio.gather(self.node.head(), self.node.fees(settings)))
                except NodeUnavailable as error:
                    self._now = error
                self._read_at = time.monotonic()

    async def _simulate(self, calls: list[Call]) -> Sequence[Simulation | Exception]:
        return await self.node.simulate_many([(call, None) for call in calls])


class Shared:
    """What the lanes of one pass do together."""

    def __init__(self) -> None:
        self._ends_at = time.monotonic() + PASS_SECONDS
        self.writers = 0
        """How many lanes are at work now."""
        self.take: Together[UUID, Lane | None] = Together(alone_where_broken(self._take))
        self.release: Together[Lease, bool] = Together(alone_where_broken(self._release))
        self.exhausted: set[UUID] = set()
        """Lanes whose held transactions were tried, and are held still."""
        self.tried: set[UUID] = set()
        """Transactions that this pass has dealt with."""
        self.look: Together[UUID, list[Task]] = Together(alone_where_broken(self._look), expected=self._at_work)
        self.claim: Together[Claim, Work] = Together(alone_where_broken(claim_all), expected=self._at_work)
        self.sign: Together[Order, StoredAttempt] = Together(alone_where_broken(sign_all), expected=self._at_work)
        self.note: Together[Note, bool] = Together(alone_where_broken(note_all), expected=self._at_work)
        self._chains: dict[int, Chain] = {}

    def chain(self, chain_id: int) -> Chain:
        if chain_id not in self._chains:
            self._chains[chain_id] = Chain(chain_id)
        return self._chains[chain_id]

    def is_over(self) -> bool:
        """Whether its time is over, or that of its process."""
        return time.monotonic() > self._ends_at or not may_begin()

    def _at_work(self) -> int:
        return self.writers

    async def _look(self, lane_ids: list[UUID]) -> Sequence[list[Task]]:
        return await look_all(lane_ids, self.tried, self.exhausted)

    async def _take(self, lane_ids: list[UUID]) -> Sequence[Lane | None]:
        rows = {row["id"]: row for row in await find_lanes(self.tried, self.exhausted, lane_ids)}
        taken = await take(rows)
        return [_lane(rows[id], taken[id]) if id in taken else None for id in lane_ids]

    async def _release(self, held: list[Lease]) -> Sequence[bool]:
        await release(held)
        return [True] * len(held)


class Writer:
    """Writes in one lane that was taken. Every method may raise `LaneLost`, and those that ask `NodeUnavailable`."""

    def __init__(self, lane: Lane, shared: Shared) -> None:
        self.lane = lane
        self.claimed = 0
        """How many nonces it has given out."""
        self.chain = shared.chain(lane.chain_id)
        self._shared = shared

    @property
    def node(self) -> Node:
        return self.chain.node

    async def look(self) -> list[Task]:
        """What there is to do now; what this pass has dealt with is left out."""
        return await self._shared.look.do(self.lane.id)

    def is_new(self, work: Work) -> bool:
        """Whether this pass has not dealt with `work` yet."""
        return work.id not in self._shared.tried

    def is_over(self) -> bool:
        """Whether this pass begins nothing more."""
        return self._shared.is_over()

    def begin(self, work: Work) -> None:
        """Note that this pass deals with `work`, so that it is not looked at again."""
        self._shared.tried.add(work.id)

    def exhaust(self) -> None:
        """Note that what is held in this lane was tried, and is held still."""
        self._shared.exhausted.add(self.lane.id)

    async def claim(self, work: Work) -> Work:
        """`work` with the lane's next nonce. Raises `Overtaken`."""
        claimed = await self._shared.claim.do(Claim(self.lane.lease, work))
        self.claimed += 1
        return claimed

    async def sign(
        self,
        work: Work,
        kind: AttemptKind,
        gas_limit: int,
        *,
        earlier: Sequence[Offer] = (),
        closing_reason: ClosingReason | None = None,
    ) -> StoredAttempt:
        """A new attempt, signed and stored; see `sign_all` for what is raised."""
        order = await self._order(work, kind, gas_limit, earlier, closing_reason)
        try:
            return await self._sign(order)
        except asyncpg.UniqueViolationError:
            # The same call for the same fees was rejected at this nonce before: a little less gas makes other bytes of
            # it, which cost no more.
            less = await lower_gas_limit(self.lane.id, order.gas_limit)
            try:
                return await self._sign(msgspec.structs.replace(order, gas_limit=less))
            except NotNow as why:
                raise NotSigned(str(why)) from why  # its signer was asked, for what was rejected before

    async def _sign(self, order: Order) -> StoredAttempt:
        if self.lane.signer_kind is SignerKind.LOCAL:
            return await self._shared.sign.do(order)
        [result] = await sign_all([order])  # alone: others would wait for a signer that does not answer
        if isinstance(result, Exception):
            raise result
        return result

    async def sign_filler(self, work: Work, gas_limit: int) -> StoredAttempt:
        """An empty transaction at a nonce that no other has; see `signing.sign_filler`."""
        return await sign_filler(await self._order(work, AttemptKind.NOOP, gas_limit))

    async def _order(
        self,
        work: Work,
        kind: AttemptKind,
        gas_limit: int,
        earlier: Sequence[Offer] = (),
        closing_reason: ClosingReason | None = None,
    ) -> Order:
        now = await self.chain.now()
        return Order(
            lease=self.lane.lease,
            work=work,
            kind=kind,
            gas_limit=gas_limit,
            market=now.fees,
            most_fee_wei=self.lane.most_fee_wei,
            is_legacy=self.lane.fee_style is FeeStyle.LEGACY,
            head_number=now.head.number,
            earlier=earlier,
            closing_reason=closing_reason,
        )

    async def send(self, work: Work, attempt: StoredAttempt) -> Sent:
        """Send the stored bytes. Raises nothing for what a node answers, or if it is silent."""
        answer = await self.chain.send.do(attempt.raw_bytes)
        SENDS.labels(answer.kind.value).inc()
        with correlated(work):
            log.info("transaction.sent", hash=attempt.hash, nonce=work.nonce, answer=answer.kind, said=answer.message)
        return Sent(attempt, answer, clock.now())

    async def note(
        self,
        work: Work,
        reason: str | None,
        sent: Sequence[Sent] = (),
        *,
        is_out: bool = False,
        hurried: bool = False,
    ) -> None:
        """Write down what was sent, why `work` waits (None: it does not), and whether it is out now."""
        if not (sent or is_out or hurried) and reason == work.reason:
            return
        note = Note(lease=self.lane.lease, work=work, reason=reason, sent=tuple(sent), is_out=is_out, hurried=hurried)
        await self._shared.note.do(note)


def _lane(row: dict[str, Any], lease: Lease) -> Lane:
    return Lane(
        id=row["id"],
        lease=lease,
        chain_id=row["chain"],
        address=row["address"],
        signer_kind=SignerKind(row["kind"]),
        next_nonce=row["next_nonce"],
        most_fee_wei=wei(row["most_fee_wei"]),
        fee_style=FeeStyle(row["fee_style"]),
    )


def alone_where_broken(
    work: Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]],
) -> Callable[[list[Item]], Awaitable[Sequence[Result | Exception]]]:
    """Do `work` for each item alone where doing it for all together fails: what breaks it takes nobody else along."""

    async def alone(item: Item) -> Result | Exception:
        try:
            return (await work([item]))[0]
        except Exception as error:
            return error

    async def together(items: list[Item]) -> Sequence[Result | Exception]:
        try:
            return await work(items)
        except Exception as error:
            if len(items) == 1 or is_unreachable(error):
                raise
            log.warning("lanes.parted", count=len(items), error=type(error).__name__)
            return [await alone(item) for item in items]

    return together
