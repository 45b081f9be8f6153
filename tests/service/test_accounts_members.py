"""Members: who may change them, what they lose at once, and that an organisation keeps an owner."""

import asyncio
from dataclasses import replace
from uuid import UUID

import msgspec
import pytest

from portal.accounts import proofs, queries, service, sessions
from portal.accounts.people import AlreadyMember, LastOwner, PersonExists
from portal.accounts.permissions import Permission, Role
from portal.accounts.schemas import Actor, ActorKind, command_actor
from portal.accounts.service import MemberDisabled, MemberElsewhere, SecondFactorNotEnrolled
from portal.accounts.totp import new_secret
from portal.audit.service import verify
from portal.db.engine import run_sql
from portal.errors import Forbidden, InputInvalid, NotFound, PreconditionFailed
from tests.people import PASSWORD, Cast, Player, make_member

NEW = "seven green otters sing"


def member_id(player: Player) -> UUID:
    assert player.actor.id is not None
    return player.actor.id


async def signed_in(player: Player) -> str:
    answer = await sessions.sign_in(player.email, player.password, player.code(), ip="203.0.113.7", user_agent="")
    return answer.token


async def kinds(organization_id: UUID) -> list[str]:
    rows = await run_sql("SELECT kind FROM audit_entry WHERE organization = {} ORDER BY sequence", organization_id)
    return [row["kind"] for row in rows]


async def test_a_new_role_counts_from_the_next_request(cast: Cast) -> None:
    view = await service.change_role(cast.alice.actor, member_id(cast.bob), Role.AUDITOR)
    assert view.role is Role.AUDITOR
    actor = await queries.get_actor(cast.bob.person_id, "acme")
    with pytest.raises(Forbidden):
        actor.require(Permission.ACTIONS_APPROVE)
    entries = await run_sql("SELECT kind, detail->>'from' AS was, detail->>'to' AS became FROM audit_entry")
    assert entries == [{"kind": "member.role_changed", "was": "approver", "became": "auditor"}]


async def test_a_role_that_somebody_else_has_changed_meanwhile_stays(cast: Cast) -> None:
    seen = await queries.get_member(cast.organization_id, member_id(cast.bob))
    await service.change_role(cast.alice.actor, seen.id, Role.AUDITOR, expected=seen)
    with pytest.raises(PreconditionFailed):
        await service.change_role(cast.alice.actor, seen.id, Role.ADMIN, expected=seen)
    assert (await queries.get_member(cast.organization_id, seen.id)).role is Role.AUDITOR


async def test_whoever_gains_a_right_signs_in_anew_and_whoever_loses_one_need_not(cast: Cast) -> None:
    carols, bobs = await signed_in(cast.carol), await signed_in(cast.bob)
    await service.change_role(cast.alice.actor, member_id(cast.carol), Role.APPROVER)
    await service.change_role(cast.alice.actor, member_id(cast.bob), Role.AUDITOR)
    assert await sessions.find_session(carols) is None
    assert await sessions.find_session(bobs) is not None


async def test_the_same_role_again_changes_nothing(cast: Cast) -> None:
    token = await signed_in(cast.bob)
    await service.change_role(cast.alice.actor, member_id(cast.bob), Role.APPROVER)
    assert await sessions.find_session(token) is not None
    assert "member.role_changed" not in await kinds(cast.organization_id)


async def test_only_administrators_change_members_and_only_their_own(cast: Cast) -> None:
    for player in (cast.bob, cast.carol, cast.oscar):
        with pytest.raises(Forbidden):
            await service.change_role(player.actor, member_id(cast.carol), Role.OPERATOR)
        with pytest.raises(Forbidden):
            await service.disable_member(player.actor, member_id(cast.carol))
        with pytest.raises(Forbidden):
            await service.reset_second_factor(player.actor, member_id(cast.carol))
    for change in (
        service.change_role(cast.dave.actor, member_id(cast.bob), Role.AUDITOR),
        service.disable_member(cast.dave.actor, member_id(cast.bob)),
        service.reset_second_factor(cast.dave.actor, member_id(cast.bob)),
    ):
        with pytest.raises(NotFound):
            await change


async def test_an_administrator_neither_makes_nor_touches_an_owner(cast: Cast) -> None:
    admin = (await make_member(cast.organization_id, "adam", Role.ADMIN)).actor
    with pytest.raises(Forbidden):
        await service.change_role(admin, member_id(cast.bob), Role.OWNER)
    with pytest.raises(Forbidden):
        await service.change_role(admin, admin.id, Role.OWNER)  # type: ignore[arg-type]
    with pytest.raises(Forbidden):
        await service.change_role(admin, member_id(cast.alice), Role.AUDITOR)
    with pytest.raises(Forbidden):
        await service.disable_member(admin, member_id(cast.alice))
    with pytest.raises(Forbidden):
        await service.reset_second_factor(admin, member_id(cast.alice))


async def test_an_api_key_cannot_make_itself_an_approver(cast: Cast) -> None:
    key = Actor(
        kind=ActorKind.API_KEY,
        organization_id=cast.organization_id,
        label="ERP",
        permissions=frozenset({*cast.alice.actor.permissions} - {Permission.ACTIONS_APPROVE}),
    )
    with pytest.raises(Forbidden):
        await service.change_role(key, member_id(cast.oscar), Role.APPROVER)
    with pytest.raises(Forbidden):
        await service.invite_member(key, "eve@example.org", Role.ADMIN)
    with pytest.raises(Forbidden):
        await service.reset_second_factor(key, member_id(cast.bob))
    await service.change_role(key, member_id(cast.oscar), Role.AUDITOR)


async def test_a_disabled_member_is_out_at_once(cast: Cast) -> None:
    token = await signed_in(cast.bob)
    view = await service.disable_member(cast.alice.actor, member_id(cast.bob))
    assert view.disabled_at is not None
    assert await sessions.find_session(token) is None
    assert await queries.list_memberships(cast.bob.person_id) == []
    with pytest.raises(NotFound):
        await queries.get_actor(cast.bob.person_id, "acme")
    for again in (
        service.disable_member(cast.alice.actor, member_id(cast.bob)),
        service.change_role(cast.alice.actor, member_id(cast.bob), Role.OWNER),
    ):
        with pytest.raises(MemberDisabled):
            await again
    assert await verify(cast.organization_id) is None


async def test_the_last_owner_stays_owner(cast: Cast) -> None:
    for change in (
        service.change_role(cast.alice.actor, member_id(cast.alice), Role.ADMIN),
        service.disable_member(cast.alice.actor, member_id(cast.alice)),
    ):
        with pytest.raises(LastOwner):
            await change
    assert (await queries.get_actor(cast.alice.person_id, "acme")).role is Role.OWNER
    assert await kinds(cast.organization_id) == []


async def test_a_disabled_owner_does_not_count(cast: Cast) -> None:
    second = await make_member(cast.organization_id, "otto", Role.OWNER)
    await service.disable_member(cast.alice.actor, member_id(second))
    with pytest.raises(LastOwner):
        await service.disable_member(cast.alice.actor, member_id(cast.alice))


async def test_two_owners_who_demote_each_other_leave_one(cast: Cast) -> None:
    second = await make_member(cast.organization_id, "otto", Role.OWNER)
    for _ in range(3):
        outcomes = await asyncio.gather(
            service.change_role(cast.alice.actor, member_id(second), Role.ADMIN),
            service.change_role(second.actor, member_id(cast.alice), Role.ADMIN),
            return_exceptions=True,
        )
        assert [type(outcome) for outcome in outcomes].count(LastOwner) == 1
        await run_sql("UPDATE member SET role = 'owner' WHERE id IN ({}, {})", member_id(second), member_id(cast.alice))


async def test_a_lost_second_factor_is_removed_and_its_sessions_end(cast: Cast) -> None:
    token = await signed_in(cast.bob)
    view = await service.reset_second_factor(cast.alice.actor, member_id(cast.bob))
    assert not view.has_second_factor
    assert await sessions.find_session(token) is None
    fresh = await sessions.sign_in(cast.bob.email, PASSWORD, ip="203.0.113.7", user_agent="")
    assert fresh.session.complete
    with pytest.raises(proofs.SecondFactorMissing):
        await proofs.use_second_factor(cast.bob.person_id, cast.bob.code(1))
    with pytest.raises(SecondFactorNotEnrolled):
        await service.reset_second_factor(cast.alice.actor, member_id(cast.bob))
    assert "second_factor.reset" in await kinds(cast.organization_id)


async def test_nobody_resets_their_own_second_factor(cast: Cast) -> None:
    with pytest.raises(Forbidden):
        await service.reset_second_factor(cast.alice.actor, member_id(cast.alice))


async def test_one_organisation_does_not_weaken_a_person_of_another(cast: Cast) -> None:
    _, token = await service.invite_member(cast.dave.actor, cast.alice.email, Role.AUDITOR)
    await service.accept_invitation(token, name="", password=PASSWORD)
    alice_elsewhere = (await queries.get_actor(cast.alice.person_id, "other")).id
    assert alice_elsewhere is not None
    with pytest.raises(MemberElsewhere):
        await service.reset_second_factor(cast.dave.actor, alice_elsewhere)
    by_command = await service.reset_second_factor(command_actor(cast.organization_id), member_id(cast.alice))
    assert not by_command.has_second_factor


async def test_the_command_line_adds_a_member_who_can_sign_in_completely(cast: Cast) -> None:
    secret = new_secret()
    view = await service.add_member(
        command_actor(cast.organization_id), "Eve@example.org", "Eve", NEW, Role.APPROVER, totp_secret=secret
    )
    assert (view.email, view.role, view.has_second_factor) == ("eve@example.org", Role.APPROVER, True)
    eve = replace(cast.bob, email=view.email, totp_secret=secret, password=NEW)
    session = await sessions.find_session(await signed_in(eve))
    assert session is not None
    assert session.complete


async def test_nobody_else_sets_a_password_for_somebody(cast: Cast) -> None:
    for actor in (cast.alice.actor, msgspec.structs.replace(cast.alice.actor, kind=ActorKind.API_KEY)):
        with pytest.raises(Forbidden):
            await service.add_member(actor, "eve@example.org", "Eve", NEW, Role.AUDITOR)


async def test_adding_somebody_who_has_an_account_leaves_it_as_it_is(cast: Cast) -> None:
    command = command_actor(cast.organization_id)
    with pytest.raises(PersonExists):
        await service.add_member(command, cast.dave.email, "Mallory", NEW, Role.OWNER, totp_secret=new_secret())
    assert len(await queries.list_memberships(cast.dave.person_id)) == 1
    view = await service.add_member(command, cast.dave.email, "Mallory", PASSWORD, Role.OWNER, totp_secret=new_secret())
    assert view.name == "Dave"
    assert await signed_in(cast.dave)
    with pytest.raises(AlreadyMember):
        await service.add_member(command, cast.dave.email, "Dave", PASSWORD, Role.ADMIN)


async def test_members_are_listed_with_their_second_factor_and_only_ones_own(cast: Cast) -> None:
    await service.reset_second_factor(cast.alice.actor, member_id(cast.bob))
    first = await queries.list_members(cast.organization_id, limit=3)
    second = await queries.list_members(cast.organization_id, limit=3, cursor=first.next_cursor)
    everybody = {view.name: view.has_second_factor for view in [*first.items, *second.items]}
    assert everybody == {"Alice": True, "Bob": False, "Carol": True, "Oscar": True}
    assert len(first.items) == 3
    assert second.next_cursor is None


async def test_somebody_in_two_organisations_must_say_which(cast: Cast) -> None:
    assert (await queries.get_sole_actor(cast.dave.person_id)).role is Role.OWNER
    _, token = await service.invite_member(cast.alice.actor, cast.dave.email, Role.AUDITOR)
    await service.accept_invitation(token, name="", password=PASSWORD)
    with pytest.raises(InputInvalid):
        await queries.get_sole_actor(cast.dave.person_id)
    assert (await queries.get_actor(cast.dave.person_id, "acme")).role is Role.AUDITOR
    assert (await queries.get_actor(cast.dave.person_id, "other")).role is Role.OWNER


@pytest.mark.parametrize("slug", ["other", "none", "", "acme\x00"])
async def test_a_foreign_organisation_looks_like_none(cast: Cast, slug: str) -> None:
    with pytest.raises(NotFound) as refused:
        await queries.get_actor(cast.bob.person_id, slug)
    assert refused.value.detail == "There is no such organisation, or you are not a member of it."


async def test_organisations_and_people_are_found_by_their_names(cast: Cast) -> None:
    acme = await queries.find_organization("acme")
    assert acme is not None
    assert acme.id == cast.organization_id
    assert [organization.slug for organization in await queries.list_organizations()] == ["acme", "other"]
    assert await queries.find_organization("none") is None
    alice = await queries.find_person("Alice@example.org")
    assert alice is not None
    assert alice.id == cast.alice.person_id
    with pytest.raises(NotFound):
        await queries.get_sole_actor(cast.organization_id)
    with pytest.raises(NotFound):
        await queries.get_member(cast.dave.actor.organization_id, member_id(cast.bob))
    with pytest.raises(NotFound):
        await queries.get_api_key(cast.organization_id, member_id(cast.bob))
