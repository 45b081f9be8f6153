"""Schemas of signals: set in versions, inferred from what has arrived, and tried on it."""

import asyncio
from typing import Any

import pytest

from portal.accounts.permissions import Permission
from portal.audit.queries import list_entries
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed
from portal.signals.json_schemas import service as schema_service
from portal.signals.json_schemas.queries import find_schema, list_schema_versions, list_schemas
from portal.signals.json_schemas.service import SchemaNotInferable, TooManySchemas, infer, set_schema, try_schema
from portal.signals.json_schemas.validation import compile_schema, failures
from portal.signals.queries import get_source
from tests.people import Cast
from tests.signals import make_sender
from tests.stored import store

AMOUNT = {
    "type": "object",
    "properties": {"amount": {"type": "integer", "maximum": 2**256 - 1}},
    "required": ["amount"],
}


async def test_each_change_is_a_version_of_its_own(cast: Cast) -> None:
    alice, organization_id = cast.alice.actor, cast.alice.actor.organization_id
    source_id = (await make_sender(cast.alice)).source_id
    first = await set_schema(alice, source_id, "order/created", AMOUNT)
    assert (first.number, first.in_force, first.schema, first.created_by) == (1, True, AMOUNT, cast.alice.email)
    second = await set_schema(alice, source_id, "order/created", {"type": "object"})
    other = await set_schema(alice, source_id, "order", {"type": "array"})
    assert await list_schemas(organization_id, source_id) == [other, second]
    ended = await set_schema(alice, source_id, "order/created", None)
    assert (ended.number, ended.in_force, ended.schema) == (3, False, None)
    assert await find_schema(organization_id, source_id, "order/created") is None
    assert await list_schemas(organization_id, source_id) == [other]
    versions = (await list_schema_versions(organization_id, source_id, "order/created")).items
    assert [(view.number, view.schema, view.in_force) for view in versions] == [
        (3, None, False),
        (2, {"type": "object"}, False),
        (1, AMOUNT, False),
    ]
    again = await set_schema(alice, source_id, "order/created", AMOUNT)
    assert (again.number, again.in_force) == (4, True)
    page = await list_schema_versions(organization_id, source_id, "order/created", limit=3)
    assert [view.number for view in page.items] == [4, 3, 2]
    rest = await list_schema_versions(organization_id, source_id, "order/created", cursor=page.next_cursor)
    assert [view.number for view in rest.items] == [1]


async def test_each_version_makes_a_new_version_of_the_source_and_an_audit_entry(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    seen = [(await get_source(alice.organization_id, source_id)).updated_at]
    made = []
    for schema in (AMOUNT, {}, None):
        made.append(await set_schema(alice, source_id, "order", schema))
        seen.append((await get_source(alice.organization_id, source_id)).updated_at)
    assert sorted(set(seen)) == seen
    entries = [
        entry for entry in (await list_entries(alice.organization_id)).items if entry.kind == "source.schema_set"
    ]
    assert [entry.detail for entry in reversed(entries)] == [
        {"type": "order", "number": view.number, "schema_id": str(view.id), "ended": view.schema is None}
        for view in made
    ]


async def test_what_is_in_force_already_makes_no_version(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    first = await set_schema(alice, source_id, "order", {"const": 1, "minimum": 0.5})
    before = await get_source(alice.organization_id, source_id)
    assert await set_schema(alice, source_id, "order", {"minimum": 0.5, "const": 1}) == first
    assert (await get_source(alice.organization_id, source_id)).updated_at == before.updated_at
    # Equal to Python, and another schema.
    assert (await set_schema(alice, source_id, "order", {"const": True, "minimum": 0.5})).number == 2


async def test_changes_at_once_are_numbered_one_after_the_other(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    made = await asyncio.gather(*(set_schema(alice, source_id, "order", {"const": number}) for number in range(8)))
    assert sorted(view.number for view in made) == list(range(1, 9))


async def test_who_has_seen_another_version_changes_nothing(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    seen = (await get_source(alice.organization_id, source_id)).updated_at
    await set_schema(alice, source_id, "order", {}, expected=seen)
    for schema in ({"type": "object"}, None):
        with pytest.raises(PreconditionFailed):
            await set_schema(alice, source_id, "order", schema, expected=seen)
    assert len((await list_schema_versions(alice.organization_id, source_id, "order")).items) == 1


async def test_a_bad_schema_is_refused_with_its_place(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    for work in (set_schema, try_schema):
        with pytest.raises(InputInvalid) as refused:
            await work(alice, source_id, "order", {"properties": {"amount": {"type": "int"}}})
        assert refused.value.fields[0].path == "/properties/amount/type"
    for type in ("", "a b", "/a", "a" * 129, "ü"):
        with pytest.raises(InputInvalid):
            await set_schema(alice, source_id, type, {})
    assert await list_schemas(alice.organization_id, source_id) == []


async def test_the_number_of_types_is_bounded(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_service, "MAX_SCHEMAS", 2)
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    await set_schema(alice, source_id, "a", {})
    await set_schema(alice, source_id, "b", {})
    with pytest.raises(TooManySchemas):
        await set_schema(alice, source_id, "c", {})
    await set_schema(alice, source_id, "b", {"type": "object"})
    await set_schema(alice, source_id, "a", None)
    await set_schema(alice, source_id, "c", {})


async def test_only_who_may_change_the_source_of_their_own_organisation_does(cast: Cast) -> None:
    source_id = (await make_sender(cast.alice)).source_id
    await set_schema(cast.oscar.actor, source_id, "order", {})
    works: list[Any] = [set_schema, try_schema, lambda actor, id, type, _: infer(actor, id, type)]
    for work in works:
        for player in (cast.carol, cast.bob):
            with pytest.raises(Forbidden):
                await work(player.actor, source_id, "order", {})
        with pytest.raises(NotFound):
            await work(cast.dave.actor, source_id, "order", {})
    for missing in (Permission.SIGNALS_READ, Permission.SOURCES_WRITE):
        actor = cast.alice.actor.__replace__(permissions=cast.alice.actor.permissions - {missing})
        with pytest.raises(Forbidden):
            await infer(actor, source_id, "order")
        with pytest.raises(Forbidden):
            await try_schema(actor, source_id, "order", {})
    assert await list_schemas(cast.dave.actor.organization_id, source_id) == []


async def test_a_trial_says_how_many_would_pass_and_why_not_the_others(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    await store(source_id, {"amount": 1})
    await store(source_id, {"amount": 2**256 - 1})
    too_much = await store(source_id, {"amount": 2**256})
    missing = await store(source_id, {"total": 5})
    unreadable = await store(source_id, b"{")
    await store(source_id, {"total": 5}, type="order.deleted")
    trial = await try_schema(alice, source_id, "order.created", AMOUNT)
    assert (trial.signals, trial.passed) == (5, 2)
    assert [failure.signal_id for failure in trial.failures] == [unreadable, missing, too_much]
    assert [(reason.path, reason.message) for reason in trial.failures[1].reasons] == [
        ("", "The field amount is missing.")
    ]
    assert trial.failures[2].reasons[0].path == "/amount"
    assert "not JSON" in trial.failures[0].reasons[0].message
    assert await list_schemas(alice.organization_id, source_id) == []


async def test_a_trial_is_bounded(cast: Cast, monkeypatch: pytest.MonkeyPatch) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    for number in range(30):
        await store(source_id, {"number": number})
    trial = await try_schema(alice, source_id, "order.created", {"properties": {"number": {"minimum": 15}}})
    assert (trial.signals, trial.passed, len(trial.failures)) == (30, 15, 10)
    assert trial.failures[0].reasons[0].message == "This must be at least 15."
    monkeypatch.setattr(schema_service, "LOOKED_AT", 20)
    assert (await try_schema(alice, source_id, "order.created", {})).signals == 20
    monkeypatch.setattr(schema_service, "LOOKED_AT_BYTES", 3 * len('{"number": 10}'))
    assert (await try_schema(alice, source_id, "order.created", {})).signals == 3
    await store(source_id, {"number": "large" * 100})
    assert (await try_schema(alice, source_id, "order.created", {})).signals == 1
    assert (await try_schema(alice, source_id, "no.such", {})).signals == 0


async def test_an_inferred_schema_passes_what_it_was_inferred_from(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    payloads: list[Any] = [{"amount": 1, "memo": None}, {"amount": 2.5, "memo": "x"}, {"amount": 2**256, "tags": []}]
    for payload in payloads:
        await store(source_id, payload)
    await store(source_id, b"{")
    proposal = await infer(alice, source_id, "order.created")
    assert proposal.signals == 3
    assert proposal.schema["required"] == ["amount"]
    validator = compile_schema(proposal.schema)
    assert [failures(validator, payload) for payload in payloads] == [[], [], []]
    assert failures(validator, {"amount": "1"}) != []
    assert (await try_schema(alice, source_id, "order.created", proposal.schema)).passed == 3
    await set_schema(alice, source_id, "order.created", proposal.schema)
    with pytest.raises(SchemaNotInferable):
        await infer(alice, source_id, "no.such")


async def test_expired_bodies_are_left_out(cast: Cast) -> None:
    alice, source_id = cast.alice.actor, (await make_sender(cast.alice)).source_id
    gone = await store(source_id, {"amount": "x"})
    await store(source_id, {"amount": 1})
    await run_sql("UPDATE signal SET body = NULL WHERE id = {}", gone)
    assert (await try_schema(alice, source_id, "order.created", AMOUNT)).passed == 1
    assert (await infer(alice, source_id, "order.created")).signals == 1
