"""The pages of signers and their groups, as people use them with forms alone."""

import re
from collections.abc import AsyncIterator
from uuid import UUID

import httpx
import pytest
import pytest_asyncio

from portal.actions.service import create_group, disable_signer
from portal.chain.queries import get_contract, get_signer, list_signer_groups, list_signers
from portal.chain.signers import make_pending_keys
from portal.db.engine import run_sql
from portal.transactions.signers.top_ups import read_signers
from tests.actions import Stage, make_signer, make_stage, settings_chain
from tests.http.test_web_pages import Reader, text_of
from tests.http.test_web_rooms import HOME, Visitor, copied
from tests.keepers import given_settings, running_kms
from tests.people import Cast
from tests.service.test_signers_groups import carry_out, deployed, make_group


@pytest.fixture
def reader(http: httpx.AsyncClient) -> Reader:
    return Visitor(http)


@pytest_asyncio.fixture
async def stage(cast: Cast) -> AsyncIterator[Stage]:
    async with settings_chain() as node:
        yield await make_stage(cast, node)


async def id_of(cast: Cast, name: str) -> UUID:
    return next(each.id for each in (await list_signers(cast.organization_id)).items if each.name == name)


async def test_a_signers_page_says_where_to_send_money_and_what_it_sends_for(reader: Reader, stage: Stage) -> None:
    await reader.sign_in(stage.cast.carol)
    await run_sql(
        """INSERT INTO signer_reading (id, organization, signer, chain, balance_wei, transaction_count, read_at)
           VALUES (gen_random_uuid(), {}, {}, 31337, 1500000000000000000, 3, now())""",
        *(stage.cast.organization_id, stage.signer_id),
    )
    await stage.propose_unsimulated()
    page = await reader.get(f"{HOME}/signers/{stage.signer_id}")
    shown = text_of(page)
    assert stage.signer_address in copied(page)
    assert "1.5 ETH" in shown
    assert "Acme Points" in shown
    assert "Open proposals 1" in shown
    assert "Disable" not in shown, "carol only reads"
    await reader.sign_in(stage.cast.dave)
    assert (await reader.get(f"/orgs/other/signers/{stage.signer_id}")).status_code == 404


async def test_a_thousand_open_proposals_are_counted_and_of_more_it_is_said_that_there_are(
    reader: Reader, stage: Stage
) -> None:
    copies = """
        INSERT INTO action SELECT made.* FROM generate_series(1, {}::int) n, (SELECT * FROM action LIMIT 1) one, LATERAL
            jsonb_populate_record(one::action, jsonb_build_object('id', gen_random_uuid(), 'correlation_id', n)) made"""
    await stage.propose_unsimulated()
    await run_sql(copies, 999)
    await reader.sign_in(stage.cast.alice)
    assert "Open proposals 1,000 " in text_of(await reader.get(f"{HOME}/signers/{stage.signer_id}"))
    await run_sql(copies, 1)
    shown = text_of(await reader.get(f"{HOME}/signers/{stage.signer_id}"))
    assert "Open proposals 1,000+ " in shown
    assert "1,000+ open proposals name it." in shown


async def test_a_signer_is_disabled_with_its_consequences_said_and_enabled_again(reader: Reader, stage: Stage) -> None:
    home = f"{HOME}/signers/{stage.signer_id}"
    await stage.propose_unsimulated()
    await reader.sign_in(stage.cast.alice)
    assert "1 open proposal names it. That stays open; what is approved waits until it is enabled again." in text_of(
        await reader.get(home)
    )
    assert (await reader.post(f"{home}/disable")).headers["location"].endswith("done=signer_disabled")
    shown = text_of(await reader.get(home))
    assert "Nothing is signed with it." in shown
    assert (await reader.post(f"{home}/disable")).status_code == 409
    assert (await reader.post(f"{home}/remove")).status_code == 409
    assert (await reader.post(f"{home}/enable")).headers["location"].endswith("done=signer_enabled")
    assert (await get_signer(stage.cast.organization_id, stage.signer_id)).status == "active"
    await reader.sign_in(stage.cast.oscar)
    assert (await reader.post(f"{home}/disable")).status_code == 403


async def test_a_key_in_kms_is_added_and_what_is_wrong_with_it_is_said(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    assert "PORTAL_KMS_KEYS" in text_of(await reader.get(f"{HOME}/signers/new?kind=aws_kms"))
    wrong = await reader.post(f"{HOME}/signers/new", kind="aws_kms", name="Vault", kms_key="")
    assert wrong.status_code == 400
    assert 'id="error-kms_key"' in wrong.text
    with running_kms() as kms:
        arn = kms.make_key()
        made = await reader.post(f"{HOME}/signers/new", kind="aws_kms", name="Vault", kms_key=arn)
        home = made.headers["location"].partition("?")[0]
        await make_pending_keys()
        shown = text_of(await reader.get(home))
        assert "It cannot be used yet." in shown
        assert "PORTAL_KMS_KEYS does not allow this key" in shown
        assert arn in shown
        with given_settings(kms_keys=arn):
            await make_pending_keys()
        page = await reader.get(home)
        assert "It cannot be used yet." not in text_of(page)
        assert any(re.fullmatch("0x[0-9a-fA-F]{40}", value) for value in copied(page))
    await reader.sign_in(cast.carol)
    assert arn not in (await reader.get(home)).text, "where the key is concerns those who administer"


async def test_a_signing_service_is_named_by_address_and_key(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    form = {"kind": "web3signer", "name": "HSM", "service_url": "signer", "public_key": "0x12"}
    wrong = await reader.post(f"{HOME}/signers/new", **form)
    assert wrong.status_code == 400
    assert 'id="error-service_url"' in wrong.text
    assert 'id="error-public_key"' in wrong.text
    assert 'value="HSM"' in wrong.text, "what was typed stays"
    assert (await reader.get(f"{HOME}/signers/new?kind=paper")).status_code == 404
    assert (await reader.post(f"{HOME}/signers/new", kind="paper", name="x")).status_code == 404


async def test_a_signer_that_was_a_mistake_is_removed_while_it_has_no_key(reader: Reader, cast: Cast) -> None:
    await reader.sign_in(cast.alice)
    made = await reader.post(f"{HOME}/signers/new", kind="aws_kms", name="Typo", kms_key="alias/typo")
    home = made.headers["location"].partition("?")[0]
    assert (await reader.post(f"{home}/remove")).headers["location"].endswith("done=signer_removed")
    assert (await reader.get(home)).status_code == 404


async def test_a_group_is_made_filled_and_given_to_a_contract(reader: Reader, stage: Stage) -> None:
    await make_signer(stage.cast, "Second")
    second = await id_of(stage.cast, "Second")
    await reader.sign_in(stage.cast.alice)
    made = await reader.post(f"{HOME}/signers/groups", name="Minters")
    assert made.headers["location"].endswith("done=group_created")
    home = made.headers["location"].partition("?")[0]
    again = await reader.post(f"{HOME}/signers/groups", name="Minters")
    assert again.status_code == 409
    assert "There is a group called Minters already." in text_of(again)
    assert (
        (await reader.post(home, name="Minters", signer_ids=[str(second)]))
        .headers["location"]
        .endswith("done=group_changed")
    )
    [group] = (await list_signer_groups(stage.cast.organization_id)).items
    assert [each.name for each in group.signers] == ["Second"]
    senders = f"{HOME}/contracts/{stage.contract_id}/senders"
    assert "Change who sends" in text_of(await reader.get(f"{HOME}/contracts/{stage.contract_id}"))
    await stage.propose_unsimulated()
    assert "1 open proposal names Treasury now." in text_of(await reader.get(senders))
    answer = await reader.post(senders, signer_id=str(second), signer_group_id="")
    assert answer.headers["location"].endswith("done=senders_changed")
    await reader.post(senders, signer_id=str(stage.signer_id), signer_group_id=str(group.id))
    view = await get_contract(stage.cast.organization_id, stage.contract_id)
    assert (view.signer_id, view.signer_group_id) == (stage.signer_id, group.id)
    shown = text_of(await reader.get(senders))
    assert "Treasury and the active signers of Minters" in shown
    assert "The group Minters" in text_of(await reader.get(f"{HOME}/signers/{second}"))
    refused = await reader.post(f"{home}/remove")
    assert refused.status_code == 409
    inbox = text_of(await reader.get(f"{HOME}/actions"))
    assert "Cancelled" in inbox, "what Treasury was to send when Second took over"


async def test_what_the_owner_of_points_must_allow_first_is_said_and_proposed(reader: Reader, stage: Stage) -> None:
    contract_id = await deployed(stage)
    group_id, [first, _] = await make_group(stage, 2)
    await reader.sign_in(stage.cast.alice)
    senders = f"{HOME}/contracts/{contract_id}/senders"
    refused = await reader.post(senders, signer_id=str(stage.signer_id), signer_group_id=str(group_id))
    assert refused.status_code == 409
    shown = text_of(refused)
    assert "Minters 0 may not mint LOY yet. Propose that the owner lets it" in shown
    assert shown.count("Propose to let it") == 2
    rights = f"{HOME}/contracts/{contract_id}/rights"
    proposed = await reader.post(rights, mint=str(first), policy_id=str(stage.policy_id))
    assert proposed.headers["location"].endswith("done=right_proposed")
    await carry_out(stage, UUID(re.search(r"actions/([0-9a-f-]{36})", proposed.headers["location"])[1]))
    shown = text_of(await reader.get(f"{senders}?group_id={group_id}"))
    assert "Propose to end it" in shown
    assert shown.count("Propose to let it") == 1
    assert "The contract said so just now" in shown
    by_itself = text_of(await reader.get(senders))
    assert "Ask the contract" in by_itself, "nobody asked for it, so the node is not"
    assert "Not yet" not in by_itself
    handed = await reader.post(rights, own=str(first), policy_id=str(stage.policy_id))
    assert "transfer_ownership" in (await reader.get(handed.headers["location"])).text
    assert (await reader.post(rights, mint="nobody", policy_id=str(stage.policy_id))).status_code == 400


async def test_who_may_not_change_signers_sees_but_does_not_change(reader: Reader, stage: Stage) -> None:
    group = await create_group(stage.cast.alice.actor, "Minters")
    await reader.sign_in(stage.cast.carol)
    for path in ("signers/groups", f"signers/groups/{group.id}", f"contracts/{stage.contract_id}/senders"):
        page = await reader.get(f"{HOME}/{path}")
        assert page.status_code == 200
        assert 'method="post"' not in page.text.partition("<main")[2], path
    assert (await reader.post(f"{HOME}/signers/groups/{group.id}", name="Mine")).status_code == 403
    assert (await reader.get(f"{HOME}/signers/new")).status_code == 403
    senders = f"{HOME}/contracts/{stage.contract_id}/senders"
    assert (await reader.post(senders, signer_id=str(stage.signer_id))).status_code == 403


async def test_the_list_says_what_each_holds_for_gas_and_which_is_low(reader: Reader, stage: Stage) -> None:
    await reader.sign_in(stage.cast.carol)
    assert "Not read yet" in text_of(await reader.get(f"{HOME}/signers"))
    await read_signers()
    await run_sql("UPDATE signer_reading SET balance_wei = 1234567890123456789, low_since = now()")
    shown = " ".join(text_of(await reader.get(f"{HOME}/signers")).split())
    assert "1.23456 ETH Low on Local chain, just now" in shown


async def test_a_disabled_signer_is_not_offered(reader: Reader, stage: Stage) -> None:
    await make_signer(stage.cast, "Second")
    await disable_signer(stage.cast.alice.actor, await id_of(stage.cast, "Second"))
    await reader.sign_in(stage.cast.alice)
    page = await reader.get(f"{HOME}/contracts/{stage.contract_id}/senders")
    assert "Second" not in page.text
