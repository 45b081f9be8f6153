"""API keys: what they may do, that a stolen database holds none, and that revoking is immediate."""

from datetime import timedelta

import msgspec
import pytest
import time_machine

from portal import clock
from portal.accounts import queries
from portal.accounts.api_keys import ApiKeyRevoked, checksum, create_api_key, find_api_key, revoke_api_key
from portal.accounts.permissions import SCOPES, Permission
from portal.accounts.schemas import Actor, ActorKind, ApiKeyView
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound
from tests.people import Cast

READS = ["signals:read", "actions:read"]


async def key_of(cast: Cast, *scopes: str) -> tuple[ApiKeyView, str, Actor]:
    view, token = await create_api_key(cast.alice.actor, "ERP", list(scopes or READS))
    actor = await find_api_key(token)
    assert actor is not None
    return view, token, actor


async def test_a_key_acts_for_its_organisation_within_its_scopes(cast: Cast) -> None:
    view, _, actor = await key_of(cast)
    assert actor.kind is ActorKind.API_KEY
    assert actor.organization_id == cast.organization_id
    assert actor.id == view.id
    assert actor.label == "ERP"
    assert actor.permissions == {Permission.SIGNALS_READ, Permission.ACTIONS_READ}


async def test_a_key_may_have_every_scope_but_approving(cast: Cast) -> None:
    _, _, actor = await key_of(cast, *SCOPES)
    with pytest.raises(Forbidden):
        actor.require(Permission.ACTIONS_APPROVE)


@pytest.mark.parametrize("scopes", [["actions:approve"], ["public"], ["account"], ["nonsense"], [], [*READS, "x"]])
async def test_what_is_not_a_scope(cast: Cast, scopes: list[str]) -> None:
    with pytest.raises(InputInvalid) as refused:
        await create_api_key(cast.alice.actor, "ERP", scopes)
    assert refused.value.fields[0].path == "/scopes"


@pytest.mark.parametrize("name", ["", "  ", "x" * 101, "two\nlines", "\x00"])
async def test_what_is_not_a_name(cast: Cast, name: str) -> None:
    with pytest.raises(InputInvalid):
        await create_api_key(cast.alice.actor, name, READS)


async def test_a_key_that_makes_keys_gives_no_more_than_it_has(cast: Cast) -> None:
    _, _, actor = await key_of(cast, "api-keys:write", "signals:read")
    child, _ = await create_api_key(actor, "child", ["signals:read"])
    assert (child.created_by, child.created_by_member_id) == ("alice@example.org", cast.alice.actor.id)
    with pytest.raises(Forbidden):
        await create_api_key(actor, "child", ["signals:read", "sources:write"])


async def test_who_may_not_make_or_revoke_keys(cast: Cast) -> None:
    view, _, _ = await key_of(cast)
    for player in (cast.bob, cast.carol, cast.oscar):
        with pytest.raises(Forbidden):
            await create_api_key(player.actor, "mine", READS)
        with pytest.raises(Forbidden):
            await revoke_api_key(player.actor, view.id)
    with pytest.raises(NotFound):
        await revoke_api_key(cast.dave.actor, view.id)


async def test_the_database_holds_no_usable_key(cast: Cast) -> None:
    view, token, _ = await key_of(cast)
    secret = token.split("_")[2]
    rows = await run_sql("SELECT k::text AS row FROM api_key k")
    entries = await run_sql("SELECT e::text AS row FROM audit_entry e")
    for row in rows + entries:
        assert secret not in row["row"]
        assert secret[:-6] not in row["row"]
    assert token.startswith(f"sp_{view.prefix}_")


async def test_a_revoked_key_is_refused_at_the_next_request(cast: Cast) -> None:
    view, token, _ = await key_of(cast)
    revoked = await revoke_api_key(cast.alice.actor, view.id)
    assert revoked.revoked_at is not None
    assert await find_api_key(token) is None
    with pytest.raises(ApiKeyRevoked):
        await revoke_api_key(cast.alice.actor, view.id)
    kinds = await run_sql("SELECT kind FROM audit_entry ORDER BY sequence")
    assert [row["kind"] for row in kinds] == ["api_key.created", "api_key.revoked"]


async def test_an_expired_key_is_refused(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        _, token = await create_api_key(cast.alice.actor, "ERP", READS, clock.now() + timedelta(days=1))
        assert await find_api_key(token) is not None
        traveller.shift(timedelta(days=1))
        assert await find_api_key(token) is None
        with pytest.raises(InputInvalid):
            await create_api_key(cast.alice.actor, "ERP", READS, clock.now())


async def test_a_wrong_secret_with_a_right_checksum_is_refused(cast: Cast) -> None:
    view, _, _ = await key_of(cast)
    body = f"sp_{view.prefix}_{'A' * 43}"
    assert await find_api_key(body + checksum(body)) is None


async def test_a_mistyped_key_does_not_reach_the_database(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    _, token, _ = await key_of(cast)

    async def no_database(*_: object) -> None:
        raise AssertionError("asked the database")

    monkeypatch.setattr("portal.accounts.api_keys.run_sql", no_database)
    swapped = token[:20] + ("a" if token[20] != "a" else "b") + token[21:]
    for wrong in (
        swapped,
        token[:-1],
        token + "x",
        "sp_",
        "",
        "sp_é",
        token.upper(),
        token + "\n",
        "sp_" + "0" * 10_000,
    ):
        assert await find_api_key(wrong) is None


async def test_its_use_is_noted_once_a_minute(cast: Cast) -> None:
    view, token = await create_api_key(cast.alice.actor, "ERP", READS)
    assert view.last_used_at is None

    async def last_used() -> object:
        return (await queries.get_api_key(cast.organization_id, view.id)).last_used_at

    with time_machine.travel(clock.now(), tick=False) as traveller:
        started = clock.now()
        await find_api_key(token)
        traveller.shift(timedelta(seconds=59))
        await find_api_key(token)
        assert await last_used() == started
        traveller.shift(timedelta(seconds=2))
        await find_api_key(token)
        assert await last_used() == clock.now()


async def test_a_scope_that_is_none_any_more_is_not_granted(cast: Cast) -> None:
    view, token, _ = await key_of(cast)
    stored = msgspec.json.encode([*READS, "actions:approve", "gone:read"]).decode()
    await run_sql("UPDATE api_key SET scopes = {}::jsonb WHERE id = {}", stored, view.id)
    actor = await find_api_key(token)
    assert actor is not None
    assert actor.permissions == set(READS)


async def test_keys_are_listed_a_page_at_a_time_and_only_ones_own(cast: Cast) -> None:
    made = [(await create_api_key(cast.alice.actor, f"key {n}", READS))[0] for n in range(3)]
    await create_api_key(cast.dave.actor, "dave's", READS)
    first = await queries.list_api_keys(cast.organization_id, limit=2)
    second = await queries.list_api_keys(cast.organization_id, limit=2, cursor=first.next_cursor)
    assert [key.id for key in [*first.items, *second.items]] == [key.id for key in reversed(made)]
    assert second.next_cursor is None
