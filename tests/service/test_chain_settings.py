"""How chains are used: by their presets until somebody sets them by hand, and what cannot be set."""

import asyncio
import json
import os
import subprocess
import sys

import pytest
from structlog.testing import capture_logs

from portal.chain.chain_settings import (
    ChainSettings,
    apply_presets,
    check,
    get_chain_settings,
    in_words,
    pause_chain,
    read,
    read_pairs,
    reset_chain,
    resume_chain,
    update_chain,
)
from portal.chain.presets import PRESETS, unknown
from portal.chain.queries import get_chain, get_fee_settings
from portal.chain.tables import Chain, FeeStyle
from portal.db.engine import run_sql
from portal.errors import InputInvalid, NotFound
from tests.anvil import running_anvil

GWEI = 10**9


@pytest.fixture
async def polygon(database: None) -> int:
    """Registered before its preset was known."""
    await Chain.insert(
        Chain(id=137, name="Chain 137", currency="ETH", confirmations=12, is_local=False, genesis_hash="0x00")
    )
    return 137


async def test_a_chain_that_nobody_set_follows_its_preset_and_says_so_once(polygon: int) -> None:
    [said] = await apply_presets()
    assert said.startswith("Chain 137 (chain 137): changed name from Chain 137 to Polygon")
    assert "final_depth from none to 500" in said
    settings, updated_at = await get_chain_settings(polygon)
    assert (settings.confirmations, settings.final_depth, settings.least_tip_wei) == (64, 500, 30 * GWEI)
    assert updated_at is None
    assert (await get_fee_settings(polygon)).least_tip_wei == 30 * GWEI
    assert await apply_presets() == ["Polygon (chain 137): as its preset says."]


async def test_what_was_set_by_hand_is_left_alone_until_it_is_reset(polygon: int) -> None:
    await apply_presets()
    with capture_logs() as logs:
        changed = await update_chain(polygon, {"confirmations": "100", "most_fee_wei": "500 gwei"}, by="ada")
    assert changed == {"confirmations": ("64", "100"), "most_fee_wei": ("none", str(500 * GWEI))}
    [line] = [each for each in logs if each["event"] == "chain.changed"]
    assert (line["by"], line["chain_id"], line["confirmations"]) == ("ada", 137, ["64", "100"])
    [said] = await apply_presets()
    assert "left as it was set by hand" in said
    settings, updated_at = await get_chain_settings(polygon)
    assert settings.confirmations == 100
    assert updated_at
    fees = await get_fee_settings(polygon)
    assert (fees.most_fee_wei, fees.style) == (500 * GWEI, FeeStyle.EIP1559)
    assert "confirmations" in await reset_chain(polygon, by="ada")
    assert await apply_presets() == ["Polygon (chain 137): as its preset says."]


async def test_a_chain_is_paused_for_everybody_and_no_preset_ends_that(polygon: int) -> None:
    with capture_logs() as logs:
        assert await pause_chain(polygon, by="ada")
        assert not await pause_chain(polygon, by="ada")
        await apply_presets()
        assert (await get_chain(polygon)).paused_at
        assert (await get_chain(polygon)).updated_at is None
        assert await resume_chain(polygon, by="ada")
        assert not await resume_chain(polygon, by="ada")
    assert (await get_chain(polygon)).paused_at is None
    said = [(each["event"], each["by"]) for each in logs if each["event"] in ("chain.paused", "chain.resumed")]
    assert said == [("chain.paused", "ada"), ("chain.resumed", "ada")]
    with pytest.raises(NotFound):
        await pause_chain(5, by="ada")


async def test_the_limit_in_flight_is_no_matter_of_the_preset(polygon: int) -> None:
    await update_chain(polygon, {"in_flight_limit": "4"}, by="ada")
    await reset_chain(polygon, by="ada")
    assert (await get_chain_settings(polygon))[0].in_flight_limit == 4


async def test_a_chain_without_a_preset_or_none_at_all(polygon: int) -> None:
    await run_sql("UPDATE chain SET id = 4242 WHERE id = 137")
    [said] = await apply_presets()
    assert "no preset is known" in said
    with pytest.raises(NotFound, match="No preset"):
        await reset_chain(4242, by="ada")
    for missing in (lambda: get_chain_settings(5), lambda: update_chain(5, {"confirmations": "1"}, by="ada")):
        with pytest.raises(NotFound, match="no chain 5"):
            await missing()


WRONG = [
    ({"confirmations": "0"}, "from 1 to 10000"),
    ({"confirmations": "-3"}, "whole number, not '-3'"),
    ({"confirmations": "9" * 5000}, "whole number"),
    ({"confirmations": "12.5"}, "whole number"),
    ({"confirmations": "501"}, "nothing is final before it is confirmed"),
    ({"final_depth": "63"}, r"from confirmations \(64\)"),
    ({"fee_style": "free"}, "eip1559 or legacy"),
    ({"fee_percentile": "0"}, "from 1 to 100"),
    ({"base_fee_percent": "99"}, "below 100 nothing would be mined"),
    ({"least_tip_wei": "0"}, "nothing is offered for 0"),
    ({"least_tip_wei": "1.5"}, "an amount such as 30gwei"),
    ({"least_tip_wei": "1e9"}, "an amount"),
    ({"most_fee_wei": "29gwei"}, "nothing could ever be sent"),
    ({"most_fee_wei": "0"}, "nothing could ever be sent"),
    ({"stuck_blocks": "0"}, "from 1"),
    ({"in_flight_limit": "17"}, "from 1 to 16"),
    ({"explorer_url": "javascript:alert(1)"}, "an address such as"),
    ({"name": ""}, "1 to 60 characters"),
    ({"name": "a\nb"}, "1 to 60 characters"),
    ({"genesis_hash": "0x00"}, "no setting of a chain; they are: name"),
    ({"confirmations": "20", "stuck_blocks": "0"}, "stuck_blocks"),
]


@pytest.mark.parametrize(("changes", "sentence"), WRONG)
async def test_a_setting_that_cannot_be_is_refused_in_a_sentence(
    polygon: int, changes: dict[str, str], sentence: str
) -> None:
    await apply_presets()
    before = await get_chain_settings(polygon)
    with pytest.raises(InputInvalid, match=sentence):
        await update_chain(polygon, changes, by="ada")
    assert await get_chain_settings(polygon) == before, "all or nothing"


async def test_settings_are_printed_as_they_are_set(polygon: int) -> None:
    await apply_presets()
    settings, _ = await get_chain_settings(polygon)
    words = [f"{name}={in_words(getattr(settings, name))}" for name in ChainSettings.__struct_fields__]
    assert read(settings, read_pairs(words)) == settings
    assert read(settings, {"least_tip_wei": "0.000000002gwei"}).least_tip_wei == 2
    assert read(settings, {"explorer_url": "https://example.org/"}).explorer_url == "https://example.org"
    for pairs in (["confirmations"], ["confirmations=1", "confirmations=2"]):
        with pytest.raises(InputInvalid, match="confirmations=12"):
            read_pairs(pairs)


@pytest.mark.parametrize("chain_id", [*sorted(PRESETS), 4242])
async def test_the_database_takes_every_preset(database: None, chain_id: int) -> None:
    preset = PRESETS.get(chain_id) or unknown(chain_id)
    fields = {name: getattr(preset, name) for name in preset.__struct_fields__}
    await Chain.insert(Chain(id=chain_id, genesis_hash="0x00", **fields))
    settings, _ = await get_chain_settings(chain_id)
    assert check(settings) == settings
    assert len(await apply_presets()) == 1
    assert (await get_chain_settings(chain_id))[0] == settings


async def portal(rpc_urls: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    """A `portal` command on this test's database."""
    return await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "portal.cli", *arguments],
        env=os.environ | {"PORTAL_CHAIN_RPC_URLS": rpc_urls, "PORTAL_LOG_LEVEL": "info"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


async def test_chains_are_administered_by_command_and_every_change_is_logged(database: None) -> None:
    with running_anvil(chain_id=8453) as base:
        urls = f"{base.rpc_urls},1=http://127.0.0.1:1/key"
        assert (await portal(urls, "seed")).stdout.splitlines() == [
            "Base (chain 8453): registered.",
            "Base (chain 8453): as its preset says.",
            "Chain 1: its node does not answer; it is registered once it does.",
        ]
        changed = await portal(urls, "chain", "set", "8453", "confirmations=45", "most_fee_wei=2gwei")
        assert changed.stdout.splitlines() == ["confirmations: 30 -> 45", f"most_fee_wei: none -> {2 * GWEI}"]
        [line] = [json.loads(each) for each in changed.stderr.splitlines() if "chain.changed" in each]
        assert (line["chain_id"], line["confirmations"], bool(line["by"])) == (8453, ["30", "45"], True)
        shown = (await portal(urls, "chain", "show", "8453")).stdout
        assert "  confirmations=45\n" in shown
        assert f"  127.0.0.1:{base.port}: Answers. Block 0." in shown
        refused = await portal(urls, "chain", "set", "8453", "confirmations=0")
        assert refused.returncode == 1
        assert refused.stderr.endswith("portal: confirmations must be from 1 to 10000.\n")
