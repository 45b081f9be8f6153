"""The audit chain: one line even under parallel writers, and every kind of tampering is found."""

import asyncio
import random
from uuid import UUID

import asyncpg
import pytest

from portal import clock
from portal.accounts.schemas import command_actor
from portal.audit import queries, service
from portal.audit.tables import AuditEntry
from portal.db.engine import run_sql, transaction
from portal.logging import bind_correlation_id
from tests.people import Cast, make_organization


async def write(organization_id: UUID, count: int) -> None:
    for number in range(count):
        async with transaction():
            await service.append(
                command_actor(organization_id), "thing.made", "thing", str(number), {"n": number, "é": "ü"}
            )


async def tamper(sql: str, *arguments: object) -> None:
    """Do what only somebody who may alter the table can."""
    await run_sql("ALTER TABLE audit_entry DISABLE TRIGGER ALL")
    try:
        await run_sql(sql, *arguments)
    finally:
        await run_sql("ALTER TABLE audit_entry ENABLE TRIGGER ALL")


async def test_fifty_parallel_writers_keep_one_chain(database: None) -> None:
    organization = await make_organization("acme")
    await asyncio.gather(*(write(organization, 1) for _ in range(50)))
    assert await service.verify(organization) is None
    entries = (await queries.list_entries(organization, limit=200)).items
    assert sorted(entry.sequence for entry in entries) == list(range(1, 51))


async def test_a_chain_that_grows_while_it_is_verified_holds(database: None) -> None:
    organization = await make_organization("acme")
    async with asyncio.TaskGroup() as writers:
        tasks = [writers.create_task(write(organization, 40)) for _ in range(3)]
        while not all(task.done() for task in tasks):
            assert await service.verify(organization) is None


@pytest.mark.parametrize(
    ("sql", "broken"),
    [
        ("UPDATE audit_entry SET kind = 'thing.unmade' WHERE sequence = 3", 3),
        ("UPDATE audit_entry SET detail = jsonb_build_object('n', 9) WHERE sequence = 2", 2),
        ("UPDATE audit_entry SET at = at + interval '1 second' WHERE sequence = 4", 4),
        ("DELETE FROM audit_entry WHERE sequence = 3", 3),
        ("DELETE FROM audit_entry WHERE sequence = 5", 5),
        ("UPDATE audit_entry SET sequence = 6 WHERE sequence = 4", 4),
    ],
)
async def test_tampering_is_found_at_its_first_entry(database: None, sql: str, broken: int) -> None:
    organization = await make_organization("acme")
    await write(organization, 5)
    assert await service.verify(organization) is None
    await tamper(sql)
    found = await service.verify(organization)
    assert found is not None
    assert found.sequence == broken


async def test_the_database_refuses_to_change_or_delete_an_entry(database: None) -> None:
    organization = await make_organization("acme")
    await write(organization, 1)
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await run_sql("UPDATE audit_entry SET kind = 'x'")
    with pytest.raises(asyncpg.RaiseError, match="append-only"):
        await run_sql("DELETE FROM audit_entry")


async def test_an_entry_disappears_with_the_change_that_failed(database: None) -> None:
    organization = await make_organization("acme")

    async def fail_after_writing() -> None:
        async with transaction():
            await service.append(command_actor(organization), "thing.made", "thing", "1")
            raise RuntimeError

    with pytest.raises(RuntimeError):
        await fail_after_writing()
    assert await AuditEntry.count() == 0
    await write(organization, 1)
    assert await service.verify(organization) is None


async def test_each_organisation_has_a_chain_of_its_own(cast: Cast) -> None:
    await write(cast.organization_id, 2)
    await write(cast.dave.actor.organization_id, 3)
    ours = (await queries.list_entries(cast.organization_id)).items
    assert [entry.sequence for entry in ours] == [2, 1]
    assert await service.verify(cast.dave.actor.organization_id) is None


async def test_entries_are_found_by_subject_by_story_and_page_by_page(cast: Cast) -> None:
    bind_correlation_id("one-delivery")
    await write(cast.organization_id, 5)
    bind_correlation_id(None)
    await write(cast.organization_id, 1)
    story = await queries.list_story(cast.organization_id, "one-delivery")
    assert [entry.subject_id for entry in story] == ["0", "1", "2", "3", "4"]
    assert all(entry.at <= clock.now() for entry in story)
    first = await queries.list_entries(cast.organization_id, limit=4)
    rest = await queries.list_entries(cast.organization_id, limit=4, cursor=first.next_cursor)
    assert [entry.sequence for entry in first.items + rest.items] == [6, 5, 4, 3, 2, 1]
    found = await queries.list_entries(cast.organization_id, subject_kind="thing", subject_id="0")
    assert len(found.items) == 2


async def test_entries_appended_together_are_what_each_appended_alone_would_be(cast: Cast) -> None:
    ours, theirs = (command_actor(player.actor.organization_id) for player in (cast.alice, cast.dave))
    draw, stories = random.Random(3), ["story-1", "story-2"]
    expected: dict[UUID, list[tuple[str, str, str, object]]] = {ours.organization_id: [], theirs.organization_id: []}
    for batch in range(40):
        entries = [
            service.Entry(
                draw.choice([ours, theirs]),
                draw.choice(["thing.made", "thing.unmade"]),
                "thing",
                f"{batch}/{number}",
                draw.choice([{}, {"n": 2**60, "é": ["ü", None, {"x": 1.5}]}]),
                draw.choice([*stories, None]),
            )
            for number in range(draw.choice([0, 1, 2, 17]))
        ]
        bind_correlation_id("the-job")
        async with transaction():
            if batch % 2:
                await service.append_many(entries)
            else:
                for entry in entries:
                    bind_correlation_id(entry.correlation_id or "the-job")
                    await service.append(entry.actor, entry.kind, entry.subject_kind, entry.subject_id, entry.detail)
        for entry in entries:
            expected[entry.actor.organization_id].append(
                (entry.kind, str(entry.subject_id), entry.correlation_id or "the-job", entry.detail)
            )
    for organization_id, wanted in expected.items():
        rows = (
            await AuditEntry.select()
            .where(AuditEntry.organization == organization_id)
            .order_by(AuditEntry.sequence)
            .output(load_json=True)
        )
        assert [row["sequence"] for row in rows] == list(range(1, len(wanted) + 1))
        assert [(row["kind"], row["subject_id"], row["correlation_id"], row["detail"]) for row in rows] == wanted
        assert {(row["actor_kind"], row["actor_label"]) for row in rows} == {("command", "portal command")}
        assert await service.verify(organization_id) is None


async def test_writers_of_the_same_chains_in_any_order_do_not_deadlock(cast: Cast) -> None:
    actors = [command_actor(player.actor.organization_id) for player in (cast.alice, cast.dave)]

    async def write_both(turn: int) -> None:
        for number in range(10):
            both = [service.Entry(actor, "thing.made", "thing", f"{turn}/{number}") for actor in actors]
            async with transaction():
                await service.append_many(both if turn % 2 else both[::-1])

    await asyncio.gather(*(write_both(turn) for turn in range(6)))
    for actor in actors:
        assert await service.verify(actor.organization_id) is None
        assert (await AuditEntry.count().where(AuditEntry.organization == actor.organization_id)) == 60
