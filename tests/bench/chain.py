"""`make bench BENCH=chain`: approved to final through the whole engine, against what the node itself accepts.

A real `portal up` signs and sends to an anvil with four blocks a second that calls a block final two blocks later. So
many lanes as there are signers: each is the owner of a contract of its own. While the chain is paused, mints are
proposed, each to an address of its own, and approved automatically; the time runs from the first signature to the last
transaction that is final. The node's own acceptance is measured in turns with it: bytes signed beforehand, in batches.
That each was executed exactly once is counted from the contracts' events.
"""

import asyncio
import json
import statistics
import time
from collections import Counter
from typing import Any
from uuid import UUID

import asyncpg
import httpx
import msgspec
from eth_account import Account
from eth_utils.crypto import keccak
from rich.console import Console
from rich.table import Table

from tests.anvil import Anvil, running_anvil
from tests.bench.assess import until_none
from tests.bench.intake import cpu_seconds, memory_mb, process_id
from tests.browser.stack import ROOT, Stack, running_stack

LANES = {1: 200, 4: 600, 16: 1600}
"""And how many transactions go through them."""
PACE = 10.0
"""Approvals a second while the time to the first broadcast is taken: more would measure how quickly all these actions
are proposed and simulated on the same processors."""
PACE_SECONDS = 20
SENDERS = 16
EACH = 100
BATCH = 50
FUNDS = 10**22
MINT_GAS = 150_000
TRANSFER = "0x" + keccak(text="Transfer(address,address,uint256)").hex()
RESULT = ROOT / "var" / "bench-chain.json"


class Field(msgspec.Struct, frozen=True):
    """A stack with one contract a signer, and a policy that approves by itself."""

    stack: Stack
    node: Anvil
    policy: str
    contracts: list[dict[str, Any]]
    database: asyncpg.Connection


def address_of(number: int) -> str:
    return "0x" + keccak(text=f"bench {number}")[-20:].hex()


async def make_field(stack: Stack, node: Anvil, database: asyncpg.Connection) -> Field:
    policy = stack.api("policies")["items"][0]["id"]  # the quickstart's own, which asks nobody
    signers = [stack.api_post("signers", {"name": f"Lane {number}"})["id"] for number in range(max(LANES))]
    await until_none(database, "signer WHERE status = 'pending'")
    for signer in signers:
        node.fund(stack.api(f"signers/{signer}")["address"], FUNDS)
    for number, signer in enumerate(signers):
        given = {"name": f"Points {number}", "template": "points", "chain_id": node.chain_id, "signer_id": signer}
        given |= {"policy_id": policy, "arguments": {"name": f"Points {number}", "symbol": "PTS"}}
        stack.api_post("deployments", given)
    await until_none(database, "contract WHERE status = 'deploying'")
    found = {each["signer_id"]: each for each in stack.api("contracts?limit=200")["items"]}
    return Field(stack, node, policy, [found[signer] for signer in signers], database)


async def propose(field: Field, numbers: range, lanes: int, per_second: float | None = None) -> list[UUID]:
    """One mint of one point each, by turns to the contracts of so many lanes; the actions' ids."""
    stack, began = field.stack, time.monotonic()
    headers = {"Authorization": f"Bearer {stack.example['api_key']}"}
    async with httpx.AsyncClient(base_url=stack.base_url, headers=headers, timeout=60) as client:
        turns = asyncio.Semaphore(8)

        async def one(place: int, number: int) -> UUID:
            if per_second:
                await asyncio.sleep(began + place / per_second - time.monotonic())
            contract = field.contracts[number % lanes]["id"]
            arguments = {"to": address_of(number), "amount": "1"}
            body = {"contract_id": contract, "function": "mint(address,uint256)", "arguments": arguments}
            async with turns:
                answer = await client.post("/api/v1/actions", json=body | {"policy_id": field.policy})
            return UUID(answer.raise_for_status().json()["id"])

        return await asyncio.gather(*(one(place, number) for place, number in enumerate(numbers)))


async def measure_lanes(field: Field, numbers: range, lanes: int) -> dict[str, Any]:
    """Transactions a second from approved to final, with all that waits approved before."""
    database, parts = field.database, ("worker", "postgres")
    await database.execute("UPDATE chain SET paused_at = now() WHERE id = $1", field.node.chain_id)
    actions = await propose(field, numbers, lanes)
    await until_none(database, "action WHERE status = 'proposed' OR status = 'approved' AND queued_at IS NULL")
    before = {part: cpu_seconds(process_id(field.stack, part)) for part in parts}
    await database.execute("UPDATE chain SET paused_at = NULL WHERE id = $1", field.node.chain_id)
    await until_none(database, "transaction WHERE status <> 'finalized'")
    spent = {part: (cpu_seconds(process_id(field.stack, part)) - before[part]) / len(actions) * 1e3 for part in parts}
    seconds = await database.fetchval(
        """SELECT extract(epoch FROM max(t.finalized_at) - min(a.signed_at))::float
           FROM transaction t JOIN attempt a ON a.transaction = t.id WHERE t.action = ANY($1)""",
        actions,
    )
    return {"number": len(actions), "per_second": len(actions) / seconds, "cpu_ms": spent}


async def measure_pace(field: Field, numbers: range) -> dict[str, float]:
    """From approval to the first broadcast in ms."""
    actions = await propose(field, numbers, max(LANES), PACE)
    await until_none(field.database, "action WHERE status = 'proposed' OR status = 'approved' AND queued_at IS NULL")
    await until_none(field.database, "transaction WHERE status <> 'finalized'")
    rows = await field.database.fetch(
        """SELECT extract(epoch FROM t.broadcast_at - a.decided_at)::float * 1000 AS ms
           FROM transaction t JOIN action a ON a.id = t.action WHERE a.id = ANY($1) ORDER BY ms""",
        actions,
    )
    return {share: rows[int(len(rows) * float(share))]["ms"] for share in ("0.5", "0.95", "0.99")}


async def measure_node(node: Anvil, token: str) -> float:
    """Transactions a second that the node accepts, of bytes that were signed beforehand: transfers of nothing."""
    accounts = [Account.create() for _ in range(SENDERS)]
    data = "0xa9059cbb" + "1".rjust(64, "0") + "0".rjust(64, "0")
    batches: list[list[str]] = []
    for account in accounts:
        node.fund(account.address, FUNDS)
        fields = {"chainId": node.chain_id, "to": token, "data": data, "gas": MINT_GAS, "value": 0, "type": 2}
        fields |= {"maxFeePerGas": 100 * 10**9, "maxPriorityFeePerGas": 1}
        signed = [account.sign_transaction(fields | {"nonce": nonce}) for nonce in range(EACH)]
        raws = ["0x" + bytes(each.raw_transaction).hex() for each in signed]
        batches += [raws[start : start + BATCH] for start in range(0, EACH, BATCH)]
    async with httpx.AsyncClient(base_url=node.url, timeout=60) as client:

        async def send(batch: list[str]) -> None:
            body = [
                {"jsonrpc": "2.0", "id": place, "method": "eth_sendRawTransaction", "params": [raw]}
                for place, raw in enumerate(batch)
            ]
            answers = (await client.post("/", json=body)).json()
            assert all("result" in answer for answer in answers), f"not all was accepted: {answers[:1]}"

        began = time.perf_counter()
        await asyncio.gather(*(send(batch) for batch in batches))
        return SENDERS * EACH / (time.perf_counter() - began)


def count_executions(field: Field, numbers: range) -> tuple[int, int]:
    """How many of the mints are missing on the chain, and how many happened more than once."""
    seen: Counter[str] = Counter()
    for contract in field.contracts:
        wanted = {"address": contract["address"], "topics": [TRANSFER], "fromBlock": "0x0"}
        seen.update("0x" + event["topics"][2][-40:] for event in field.node.rpc("eth_getLogs", wanted))
    counts = [seen[address_of(number)] for number in numbers]
    return counts.count(0), sum(count > 1 for count in counts)


async def measure_all(stack: Stack, node: Anvil) -> dict[str, Any]:
    database = await asyncpg.connect(stack.settings()["PORTAL_DATABASE_URL"])
    try:
        field = await make_field(stack, node, database)
        memory, done, accepted = memory_mb(stack), 0, []
        result: dict[str, Any] = {"lanes": {}}
        for lanes, number in LANES.items():
            accepted.append(await measure_node(node, field.contracts[0]["address"]))
            result["lanes"][lanes] = await measure_lanes(field, range(done, done + number), lanes)
            done += number
        accepted.append(await measure_node(node, field.contracts[0]["address"]))
        last = done + int(PACE * PACE_SECONDS)
        result["broadcast_ms"] = await measure_pace(field, range(done, last))
        missing, doubled = count_executions(field, range(last))
        node_rate = statistics.median(accepted)
        result |= {"node": node_rate, "ratio": result["lanes"][max(LANES)]["per_second"] / node_rate, "total": last}
        return result | {"missing": missing, "doubled": doubled, "memory": [memory, memory_mb(stack)]}
    finally:
        await database.close()


def show(result: dict[str, Any]) -> None:
    table = Table(title="Approved → final, through the whole engine")
    for heading in ("lanes", "transactions", "per second", "÷ node", "worker CPU ms each", "database CPU ms each"):
        table.add_column(heading, justify="right")
    for lanes, each in result["lanes"].items():
        rate, cpu = each["per_second"], each["cpu_ms"]
        ratio = f"{rate / result['node']:.2f}"
        cells = (
            str(lanes),
            str(each["number"]),
            f"{rate:.0f}",
            ratio,
            f"{cpu['worker']:.1f}",
            f"{cpu['postgres']:.1f}",
        )
        table.add_row(*cells)
    console = Console(width=120)
    console.print(table)
    console.print(f"node: accepts {result['node']:.0f} pre-signed a second")
    times = " / ".join(f"{each:.0f}" for each in result["broadcast_ms"].values())
    console.print(f"approval → first broadcast at {PACE:.0f} a second, p50 / p95 / p99: {times} ms")
    console.print(f"executed: {result['total']}, missing: {result['missing']}, more than once: {result['doubled']}")
    console.print(f"memory MB before and after: {result['memory']}")


def main() -> None:
    with (
        running_anvil(block_time=0.25, options=["--slots-in-an-epoch", "1"]) as node,
        running_stack(approvals=0, PORTAL_CHAIN_RPC_URLS=node.rpc_urls) as stack,
    ):
        result = asyncio.run(measure_all(stack, node))
    show(result)
    RESULT.parent.mkdir(exist_ok=True)
    RESULT.write_text(json.dumps(result, indent=2))
