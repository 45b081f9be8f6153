"""End users: made once for a subject, many at a time, each with one address."""

import asyncio
from uuid import UUID

import pytest

from portal import clock
from portal.accounts import queries
from portal.accounts.end_users import EndUserExists, NewEndUser, check_end_user, find_end_users, make_end_users
from portal.accounts.schemas import LoginState
from portal.accounts.tables import EndUser
from portal.audit.queries import list_entries
from portal.audit.service import append_many, verify
from portal.db.columns import new_id
from portal.db.engine import run_sql, transaction
from portal.errors import InputInvalid, NotFound
from tests.people import Cast, make_end_user


def new(subject: str, address: str = "0xA", *, id: UUID | None = None) -> NewEndUser:
    return NewEndUser(
        id=id or new_id(), subject=subject, name=subject, email=None, address=address, correlation_id=f"story-{subject}"
    )


async def make(organization_id: UUID, *people: NewEndUser) -> None:
    async with transaction():
        await append_many(await make_end_users(organization_id, people))


async def said(cast: Cast) -> list[tuple[str, str, str]]:
    entries = (await list_entries(cast.organization_id, subject_kind="end_user", limit=200)).items
    return [(entry.kind, entry.subject_id, entry.correlation_id) for entry in reversed(entries)]


async def test_many_are_made_at_once_each_with_its_story(cast: Cast) -> None:
    people = [new(f"github:{number}", f"0x{number}") for number in range(50)]
    await make(cast.organization_id, *people)
    found = await find_end_users(cast.organization_id, [each.subject for each in people] + ["github:nobody"])
    assert {subject: (key.id, key.address) for subject, key in found.items()} == {
        each.subject: (each.id, each.address) for each in people
    }
    for kind in ("end_user.created", "end_user.address_set"):
        assert [entry for entry in await said(cast) if entry[0] == kind] == [
            (kind, str(each.id), each.correlation_id) for each in people
        ]
    assert await find_end_users(cast.dave.actor.organization_id, ["github:1"]) == {}
    assert await verify(cast.organization_id) is None


async def test_a_subject_is_one_end_user_however_many_try_at_once(cast: Cast) -> None:
    tries = await asyncio.gather(
        *(make(cast.organization_id, new("github:eve"), new(f"github:{number}")) for number in range(5)),
        return_exceptions=True,
    )
    assert [each for each in tries if each is not None and not isinstance(each, EndUserExists)] == []
    assert tries.count(None) == 1
    rows = await run_sql("SELECT subject FROM end_user ORDER BY subject")
    assert [row["subject"] for row in rows] == [f"github:{tries.index(None)}", "github:eve"]
    await make(cast.dave.actor.organization_id, new("github:eve"))


async def test_an_end_user_gets_one_address(cast: Cast) -> None:
    organization, id = cast.organization_id, new_id()
    await EndUser.insert(
        EndUser(id=id, organization=organization, subject="github:eve", name="Eve", created_at=clock.now())
    )
    assert (await find_end_users(organization, ["github:eve"]))["github:eve"].address is None
    with pytest.raises(EndUserExists):
        await make(organization, new("github:eve"))
    await make(organization, new("github:eve", "0xB", id=id))
    with pytest.raises(EndUserExists):
        await make(organization, new("github:eve", "0xC", id=id))
    view = await queries.get_end_user(organization, id)
    assert (view.address, view.login) == ("0xB", LoginState.NONE)
    assert await said(cast) == [("end_user.address_set", str(id), "story-github:eve")]


@pytest.mark.parametrize(
    ("subject", "name", "email"),
    [
        ("", "Eve", None),
        ("x" * 201, "Eve", None),
        ("a\x00b", "Eve", None),
        ("a", "\x00", None),
        ("a", "Eve", "nonsense"),
    ],
)
def test_what_is_no_end_user(subject: str, name: str, email: str | None) -> None:
    with pytest.raises(InputInvalid):
        check_end_user(subject, name, email)


async def test_end_users_are_found_by_what_one_knows_of_them(cast: Cast) -> None:
    for subject, name, email in (("github:eve", "Eve 100%", "eve@example.org"), ("erp:7", "Finn", None)):
        await make_end_user(cast.organization_id, subject, name, email)
    await make_end_user(cast.dave.actor.organization_id, "github:eve2")

    async def found(text: str) -> list[str]:
        return [view.name for view in (await queries.list_end_users(cast.organization_id, text=text)).items]

    assert await found("GITHUB:") == ["Eve 100%"]
    assert await found("100%") == ["Eve 100%"]
    assert await found("%") == ["Eve 100%"]
    assert await found("eve@") == ["Eve 100%"]
    assert await found("") == ["Finn", "Eve 100%"]
    assert await found("nobody\x00") == []
    everyone = await queries.list_end_users(cast.organization_id)
    with pytest.raises(NotFound):
        await queries.get_end_user(cast.dave.actor.organization_id, everyone.items[0].id)
