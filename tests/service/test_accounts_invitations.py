"""Links: what they open, once, and that they never open an account that exists."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest
import time_machine

from portal import clock
from portal.accounts import proofs, queries, service, sessions
from portal.accounts.invitations import EndUserHasLogin, InvitationNotOpen, list_invitations
from portal.accounts.people import AlreadyMember, PersonExists, SlugTaken
from portal.accounts.permissions import Role
from portal.accounts.schemas import LoginState
from portal.accounts.tables import InvitationKind, Member, Person
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound, TooManyRequests
from tests.people import PASSWORD, Cast, make_end_user

NEW = "seven green otters sing"


async def accept(token: str, **given: Any) -> Any:
    return await service.accept_invitation(token, **{"name": "Eve", "password": NEW, **given})


async def signs_in(email: str, password: str) -> bool:
    try:
        await sessions.sign_in(email, password, ip="203.0.113.7", user_agent="")
    except proofs.SignInFailed:
        return False
    return True


async def count_rows(table: str) -> int:
    return int((await run_sql(f"SELECT count(*) FROM {table}"))[0]["count"])


async def test_the_first_owner_makes_an_organisation_and_signs_in(database: None) -> None:
    token = await service.invite_owner()
    person = await accept(token, email="Eve@Example.org", organization_name="Ünder & Söhne")
    (membership,) = await queries.list_memberships(person.id)
    assert (membership.slug, membership.name, membership.role) == ("under-sohne", "Ünder & Söhne", Role.OWNER)
    assert await signs_in("eve@example.org", NEW)
    assert await verify(membership.organization_id) is None


async def test_two_organisations_of_one_name_get_two_addresses(database: None) -> None:
    for email, slug in (("a@example.org", "acme"), ("b@example.org", "acme-2"), ("c@example.org", "acme-3")):
        person = await accept(await service.invite_owner(), email=email, organization_name="Acme")
        assert (await queries.get_sole_actor(person.id)).label == email
        assert (await queries.list_memberships(person.id))[0].slug == slug
    with pytest.raises(SlugTaken):
        await service.create_organization("Acme", "acme")
    assert (await service.create_organization("日本")).slug == "organization"


@pytest.mark.parametrize("slug", ["", "Acme", "a--b", "-a", "a" * 41, "a b", "a\n"])
async def test_what_is_no_slug(database: None, slug: str) -> None:
    with pytest.raises(InputInvalid):
        await service.create_organization("Acme", slug)


async def test_a_link_that_failed_may_be_tried_again(database: None) -> None:
    token = await service.invite_owner()
    for wrong, path in (
        ({"organization_name": ""}, "/organization_name"),
        ({"email": "nonsense"}, "/email"),
        ({"email": None}, "/email"),
        ({"password": "short"}, "/password"),
        ({"name": " "}, "/name"),
    ):
        with pytest.raises(InputInvalid) as refused:
            await accept(token, **{"email": "eve@example.org", "organization_name": "Acme", **wrong})
        assert refused.value.fields[0].path == path
    assert await count_rows("person") == 0
    await accept(token, email="eve@example.org", organization_name="Acme")


async def test_a_member_comes_in_with_the_role_of_the_invitation(cast: Cast) -> None:
    view, token = await service.invite_member(cast.alice.actor, " Eve@example.org", Role.APPROVER)
    assert (view.email, view.role, view.organization_name) == ("eve@example.org", Role.APPROVER, "Acme")
    assert (await service.find_invitation(token)) == view
    assert not view.person_exists
    person = await accept(token)
    actor = await queries.get_actor(person.id, "acme")
    assert actor.role is Role.APPROVER
    assert await signs_in("eve@example.org", NEW)
    assert await verify(cast.organization_id) is None


async def test_a_link_works_once_even_for_many_at_once(cast: Cast) -> None:
    _, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.AUDITOR)
    answers = await asyncio.gather(*(accept(token) for _ in range(4)), return_exceptions=True)
    assert len([answer for answer in answers if not isinstance(answer, Exception)]) == 1
    assert await count_rows("person") == 6
    assert await service.find_invitation(token) is None
    with pytest.raises(InvitationNotOpen):
        await accept(token)


async def test_a_link_ends_after_seven_days(cast: Cast) -> None:
    with time_machine.travel(clock.now(), tick=False) as traveller:
        _, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.AUDITOR)
        traveller.shift(timedelta(days=7))
        assert await service.find_invitation(token) is None
        with pytest.raises(InvitationNotOpen):
            await accept(token)


async def test_a_newer_link_ends_the_older_one_to_the_same_person(cast: Cast) -> None:
    _, older = await service.invite_member(cast.alice.actor, "eve@example.org", Role.OWNER)
    _, newer = await service.invite_member(cast.alice.actor, "eve@example.org", Role.AUDITOR)
    _, another = await service.invite_member(cast.alice.actor, "finn@example.org", Role.AUDITOR)
    assert await service.find_invitation(older) is None
    assert await service.find_invitation(newer) is not None
    assert await service.find_invitation(another) is not None
    first_owner, second_owner = await service.invite_owner(), await service.invite_owner()
    assert await service.find_invitation(first_owner) is None
    assert await service.find_invitation(second_owner) is not None


async def test_a_withdrawn_link_is_dead(cast: Cast) -> None:
    view, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.AUDITOR)
    with pytest.raises(NotFound):
        await service.withdraw_invitation(cast.dave.actor, view.id)
    assert [open_.id for open_ in await list_invitations(cast.organization_id)] == [view.id]
    assert await list_invitations(cast.dave.actor.organization_id) == []
    await service.withdraw_invitation(cast.alice.actor, view.id)
    assert await list_invitations(cast.organization_id) == []
    with pytest.raises(InvitationNotOpen):
        await accept(token)


async def test_the_token_is_not_in_the_database(cast: Cast) -> None:
    _, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.AUDITOR)
    rows = await run_sql("SELECT i::text AS row FROM invitation i UNION ALL SELECT e::text FROM audit_entry e")
    assert rows
    assert not any(token in row["row"] for row in rows)


async def test_a_made_up_link_opens_nothing(cast: Cast) -> None:
    for token in ("", "x", "\x00", "é" * 50):
        assert await service.find_invitation(token) is None
        with pytest.raises(InvitationNotOpen):
            await accept(token)


async def test_a_link_does_not_reset_the_password_of_an_account(cast: Cast) -> None:
    view, token = await service.invite_member(cast.dave.actor, cast.bob.email, Role.AUDITOR)
    assert view.person_exists
    with pytest.raises(InputInvalid) as refused:
        await accept(token, password=NEW)
    assert refused.value.fields[0].path == "/password"
    assert await signs_in(cast.bob.email, PASSWORD)
    assert not await signs_in(cast.bob.email, NEW)
    await accept(token, name="Mallory", password=PASSWORD)
    assert {membership.slug for membership in await queries.list_memberships(cast.bob.person_id)} == {"acme", "other"}
    row = await Person.select().where(Person.id == cast.bob.person_id).first()
    assert row is not None
    assert row["name"] == "Bob"
    assert row["totp_secret"] is not None


async def test_an_owners_link_does_not_open_the_account_whose_address_is_typed(cast: Cast) -> None:
    token = await service.invite_owner()
    with pytest.raises(InputInvalid):
        await accept(token, email=cast.alice.email, organization_name="Mine")
    assert len(await queries.list_memberships(cast.alice.person_id)) == 1


async def test_a_link_is_no_way_to_guess_passwords(cast: Cast) -> None:
    _, token = await service.invite_member(cast.dave.actor, cast.bob.email, Role.AUDITOR)
    for _ in range(5):
        with pytest.raises(InputInvalid):
            await accept(token)
    with pytest.raises(TooManyRequests):
        await accept(token, password=PASSWORD)


async def test_a_link_is_for_its_address_only(cast: Cast) -> None:
    _, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.OWNER)
    with pytest.raises(InputInvalid) as refused:
        await accept(token, email="mallory@example.org")
    assert refused.value.fields[0].path == "/email"


async def test_who_may_invite_whom(cast: Cast) -> None:
    for player in (cast.bob, cast.carol, cast.oscar):
        with pytest.raises(Forbidden):
            await service.invite_member(player.actor, "eve@example.org", Role.AUDITOR)
    with pytest.raises(AlreadyMember):
        await service.invite_member(cast.alice.actor, cast.bob.email, Role.ADMIN)
    _, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.ADMIN)
    admin = await queries.get_actor((await accept(token)).id, "acme")
    with pytest.raises(Forbidden):
        await service.invite_member(admin, "finn@example.org", Role.OWNER)
    await service.invite_member(admin, "finn@example.org", Role.APPROVER)


async def test_a_disabled_member_may_be_invited_back_in_another_role(cast: Cast) -> None:
    await service.disable_member(cast.alice.actor, cast.bob.actor.id)  # type: ignore[arg-type]
    _, token = await service.invite_member(cast.alice.actor, cast.bob.email, Role.AUDITOR)
    await accept(token, password=PASSWORD)
    actor = await queries.get_actor(cast.bob.person_id, "acme")
    assert (actor.id, actor.role) == (cast.bob.actor.id, Role.AUDITOR)


async def test_an_invitation_from_before_being_disabled_does_not_bring_a_member_back(cast: Cast) -> None:
    bobs = cast.bob.actor.id
    await Member.update({Member.disabled_at: clock.now()}).where(Member.id == bobs)
    _, token = await service.invite_member(cast.alice.actor, cast.bob.email, Role.OWNER)
    await Member.update({Member.disabled_at: None}).where(Member.id == bobs)
    await service.disable_member(cast.alice.actor, bobs)  # type: ignore[arg-type]
    with pytest.raises(InvitationNotOpen):
        await accept(token, password=PASSWORD)


async def test_an_end_user_gets_a_login_and_sees_who_they_are(cast: Cast) -> None:
    end_user_id = await make_end_user(cast.organization_id)
    view, token = await service.invite_end_user(cast.oscar.actor, end_user_id)
    assert view.kind is InvitationKind.END_USER
    assert (await queries.get_end_user(cast.organization_id, end_user_id)).login is LoginState.INVITED
    person = await accept(token, email="eve@example.org")
    assert (await queries.get_end_user(cast.organization_id, end_user_id)).login is LoginState.ACTIVE
    (profile,) = await queries.list_end_user_profiles(person.id)
    assert (profile.subject, profile.organization_name) == ("github:eve", "Acme")
    assert await queries.list_memberships(person.id) == []
    with pytest.raises(NotFound):
        await queries.get_actor(person.id, "acme")
    with pytest.raises(EndUserHasLogin):
        await service.invite_end_user(cast.oscar.actor, end_user_id)
    entries = await run_sql("SELECT actor_kind, actor_label FROM audit_entry WHERE kind = 'end_user.joined'")
    assert entries == [{"actor_kind": "end_user", "actor_label": "eve@example.org"}]
    assert await verify(cast.organization_id) is None


async def test_a_member_may_be_an_end_user_too(cast: Cast) -> None:
    end_user_id = await make_end_user(cast.organization_id, "github:bob", email="Bob@example.org")
    _, token = await service.invite_end_user(cast.alice.actor, end_user_id)
    with pytest.raises(InputInvalid):
        await accept(token, password=NEW)
    person = await accept(token, password=PASSWORD)
    assert person.id == cast.bob.person_id
    assert len(await queries.list_end_user_profiles(person.id)) == 1


async def test_who_may_invite_end_users(cast: Cast) -> None:
    end_user_id = await make_end_user(cast.organization_id)
    for player in (cast.bob, cast.carol):
        with pytest.raises(Forbidden):
            await service.invite_end_user(player.actor, end_user_id)
    with pytest.raises(NotFound):
        await service.invite_end_user(cast.dave.actor, end_user_id)


async def test_the_account_may_come_into_being_while_the_link_is_followed(cast: Cast) -> None:
    _, token = await service.invite_member(cast.alice.actor, "eve@example.org", Role.AUDITOR)
    _, others = await service.invite_member(cast.dave.actor, "eve@example.org", Role.AUDITOR)
    outcomes = await asyncio.gather(
        accept(token), accept(others, password="eight blue otters dance"), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes].count(PersonExists) == 1
    # The loser's link is not used up: it now asks for the account's own password.
    lost = (token, others)[[isinstance(outcome, PersonExists) for outcome in outcomes].index(True)]
    assert (await service.find_invitation(lost)).person_exists  # type: ignore[union-attr]
