"""When two simulations say that the same would happen."""

from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest

from portal.actions.schemas import Simulation
from portal.actions.simulated import outcome_digest_of, simulation_of

CHANGE = {
    "holder": "0xAda",
    "asset": "erc20",
    "token": "0xPts",
    "token_id": None,
    "is_registered": True,
    "symbol": "PTS",
    "decimals": 18,
    "change": "50",
    "before": "0",
}
EVENT = {
    "contract": "0xPts",
    "event": "Transfer(address,address,uint256)",
    "arguments": [],
    "topics": ["0x01", "0x02"],
    "data": "0x32",
    "data_bytes": 1,
    "symbol": "PTS",
    "decimals": 18,
}
OTHER_CHANGE, OTHER_EVENT = {**CHANGE, "holder": "0xBob"}, {**EVENT, "data": "0x33"}
EFFECTS = {
    "source": "debug_traceCall",
    "changes": [CHANGE, OTHER_CHANGE],
    "more_changes": 0,
    "events": [EVENT, OTHER_EVENT],
    "more_events": 0,
}


def stored(effects: Any = EFFECTS, **changed: Any) -> str:
    answer = {"ok": True, "gas": 50_000, "block_number": 7, "revert_reason": None, "effects": effects, **changed}
    row = {"simulation": msgspec.json.encode(answer).decode(), "simulated_at": datetime(2026, 1, 1, tzinfo=UTC)}
    simulation = simulation_of(row)
    assert isinstance(simulation, Simulation)
    return outcome_digest_of(simulation)


def with_first(kind: str, **changed: Any) -> str:
    first, second = EFFECTS[kind]
    return stored({**EFFECTS, kind: [{**first, **changed}, second]})


@pytest.mark.parametrize(
    "same",
    [
        stored(gas=60_000, block_number=8),
        stored({**EFFECTS, "source": "eth_simulateV1"}),
        stored({**EFFECTS, "changes": [OTHER_CHANGE, CHANGE], "events": [OTHER_EVENT, EVENT]}),
        with_first("changes", before="50", symbol="Points"),
        with_first("events", symbol="Points"),
    ],
)
def test_gas_block_balances_before_names_order_and_tracing_are_no_other_outcome(same: str) -> None:
    assert same == stored()


def test_everything_that_would_happen_is_part_of_the_outcome() -> None:
    others = [
        stored(ok=False, effects=None, revert_reason="no"),
        stored(effects=None),
        stored({**EFFECTS, "changes": [CHANGE]}),
        stored({**EFFECTS, "events": [EVENT]}),
        stored({**EFFECTS, "events": [EVENT, OTHER_EVENT, OTHER_EVENT]}),
        stored({**EFFECTS, "more_changes": 1}),
        stored({**EFFECTS, "more_events": 1}),
        *(with_first("changes", **{name: "0xEve"}) for name in ("holder", "asset", "token", "token_id", "change")),
        *(with_first("events", **{name: "0xEve"}) for name in ("contract", "data")),
        with_first("events", topics=["0x01", "0x03"]),
        with_first("events", data_bytes=5000),
    ]
    assert len({stored(), *others}) == 1 + len(others)
