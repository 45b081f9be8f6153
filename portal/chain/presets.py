"""What is known of public chains: how deep is deep enough, what their nodes ask for, where to look things up.

Sources, named beside the numbers: ids, currencies and explorers are those of ethereum-lists/chains. "Chainlink" is
`pkg/config/toml/defaults` of smartcontractkit/chainlink-evm, what its operators found on these chains: `finalized` is
trusted where it sets FinalityTagEnabled, else its FinalityDepth holds; its PriceMin is what nodes take at least.

- Confirmations weigh a chain's speed against the depth of its reorganisations; only finality ends a transaction.
- `stuck_blocks` are about half a minute of blocks, and at least three (Chainlink's BumpThreshold).
- The tip is at the 50th percentile (Chainlink's TransactionPercentile on Ethereum), with room for twice the base fee.
- A test net has the numbers of its main net, so that what is tried there behaves alike.
"""

from typing import Any

import msgspec

from portal.chain.tables import FeeStyle

GWEI = 10**9


class Preset(msgspec.Struct, frozen=True, kw_only=True):
    """The columns of `chain` that are the same for everybody who uses it; see the table for what each means."""

    name: str
    currency: str
    confirmations: int
    explorer_url: str | None = None
    is_local: bool = False
    final_depth: int | None = None
    fee_style: FeeStyle = FeeStyle.EIP1559
    fee_percentile: int = 50
    base_fee_percent: int = 200
    least_tip_wei: int = 1
    most_fee_wei: int | None = None
    stuck_blocks: int = 5


def unknown(chain_id: int) -> Preset:
    """For a chain without a preset: cautious, and by the standard."""
    return Preset(name=f"Chain {chain_id}", currency="ETH", confirmations=12)


ETHEREUM = Preset(
    name="Ethereum",
    currency="ETH",
    confirmations=12,
    explorer_url="https://etherscan.io",
    most_fee_wei=500 * GWEI,  # geth's own oracle never suggests more: eth/gasprice, DefaultMaxPrice
    stuck_blocks=3,  # a block every 12 seconds
)
OPTIMISM = Preset(
    name="Optimism",
    currency="ETH",
    confirmations=30,
    explorer_url="https://optimistic.etherscan.io",
    least_tip_wei=10**6,  # op-geth, eth/gasprice: DefaultMinSuggestedPriorityFee; Base's documentation shows the same
    stuck_blocks=15,  # a block every 2 seconds
)
BASE = msgspec.structs.replace(OPTIMISM, name="Base", explorer_url="https://basescan.org")
ARBITRUM = Preset(
    name="Arbitrum One",
    currency="ETH",
    confirmations=40,
    explorer_url="https://arbiscan.io",
    stuck_blocks=120,  # about four blocks a second; tips are not collected (docs.arbitrum.io, priority fees)
)
POLYGON = Preset(
    name="Polygon",
    currency="POL",
    confirmations=64,
    explorer_url="https://polygonscan.com",
    final_depth=500,  # Chainlink: "multiple instances of finality tag being violated", reorganisations of hundreds
    least_tip_wei=30 * GWEI,  # Chainlink: "many RPC providers set a minimum of 30 gwei"; the pool's own limit is 25
    stuck_blocks=15,
)
BNB = Preset(
    name="BNB Smart Chain",
    currency="BNB",
    confirmations=15,  # of 21 validators a majority has signed after 11 (Chainlink)
    explorer_url="https://bscscan.com",
    least_tip_wei=GWEI // 10,  # Chainlink's PriceMin; the base fee is 0, so the tip is the price
    stuck_blocks=40,  # less than a second a block
)
AVALANCHE = Preset(
    name="Avalanche C-Chain",
    currency="AVAX",
    confirmations=2,  # an accepted block is final; Chainlink waits for 1, and stays 2 behind because nodes differ
    explorer_url="https://snowtrace.io",
    stuck_blocks=15,
)
GNOSIS = Preset(
    name="Gnosis",
    currency="xDAI",
    confirmations=12,
    explorer_url="https://gnosisscan.io",
    least_tip_wei=GWEI,  # Chainlink: "1 gwei is the minimum accepted by the validators"
    most_fee_wei=500 * GWEI,  # Chainlink's PriceMax
    stuck_blocks=6,  # a block every 5 seconds (docs.gnosischain.com, specifications)
)


def _like(main_net: Preset, name: str, explorer_url: str, **more: Any) -> Preset:
    return msgspec.structs.replace(main_net, name=name, explorer_url=explorer_url, **more)


PRESETS = {
    1: ETHEREUM,
    10: OPTIMISM,
    56: BNB,
    97: _like(BNB, "BNB testnet", "https://testnet.bscscan.com", currency="tBNB"),
    100: GNOSIS,
    137: POLYGON,
    8453: BASE,
    10200: _like(GNOSIS, "Chiado", "https://gnosis-chiado.blockscout.com"),
    17000: _like(ETHEREUM, "Holesky", "https://holesky.etherscan.io"),
    31337: Preset(name="Local chain", currency="ETH", confirmations=2, is_local=True),
    42161: ARBITRUM,
    43113: _like(AVALANCHE, "Fuji", "https://testnet.snowtrace.io"),
    43114: AVALANCHE,
    80002: _like(POLYGON, "Amoy", "https://amoy.polygonscan.com", least_tip_wei=25 * GWEI),  # Chainlink's PriceMin
    84532: _like(BASE, "Base Sepolia", "https://sepolia.basescan.org"),
    421614: _like(ARBITRUM, "Arbitrum Sepolia", "https://sepolia.arbiscan.io"),
    560048: _like(ETHEREUM, "Hoodi", "https://hoodi.etherscan.io"),
    11155111: _like(ETHEREUM, "Sepolia", "https://sepolia.etherscan.io"),
    11155420: _like(OPTIMISM, "OP Sepolia", "https://sepolia-optimism.etherscan.io"),
}
