"""Senders whose clocks are wrong: refused beyond five minutes, with the reason and by how much; below that, shown."""

import re
import time
from typing import Any
from uuid import uuid4

import httpx
import pytest

from portal.db.engine import run_sql
from tests.http.api import key_of, make_source, problem
from tests.people import Cast
from tests.schemes import CASES, Case
from tests.signals import sign

TIMED = [case for case in CASES if case.timestamp]
timed_case = pytest.mark.parametrize("case", TIMED, ids=lambda case: case.name)
slow_or_fast = pytest.mark.parametrize("behind", [True, False], ids=["slow", "fast"])


async def deliver(http: httpx.AsyncClient, source: dict[str, Any], case: Case, shift_seconds: int) -> httpx.Response:
    """A new delivery of a sender whose clock is `shift_seconds` behind ours."""
    id = uuid4().hex
    body, at = case.body(id, "order.paid"), time.time() - shift_seconds
    headers = sign(case.scheme, case.settings, case.key, body, id=id, event="order.paid", at=at, url=source["url"])
    return await http.post(source["url"], content=body, headers=headers)


def test_every_scheme_that_signs_the_time_is_here() -> None:
    assert {case.scheme for case in TIMED} == {"standard_webhooks", "svix", "stripe", "slack", "hmac", "ed25519"}


@timed_case
@slow_or_fast
async def test_ten_minutes_off_is_refused_and_listed_with_the_difference(
    http: httpx.AsyncClient, cast: Cast, case: Case, behind: bool
) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, scheme=case.scheme, secret=case.secret, settings=case.settings)
    said = problem(await deliver(http, source, case, 600 if behind else -600), 401, "signature_invalid")
    assert "too old" not in said["detail"], "strangers do not learn what was right about it"
    [listed] = (await http.get(f"/api/v1/sources/{source['id']}/rejected-deliveries", headers=key)).json()["items"]
    assert listed["cause"] == "signature_invalid"
    assert listed["correlation_id"] == said["correlation_id"]
    told = re.fullmatch(r"the timestamp is too (old|far in the future): (\d+) s from our clock", listed["detail"])
    assert told, listed["detail"]
    assert told[1] == ("old" if behind else "far in the future")
    assert abs(int(told[2]) - 600) <= 5
    assert await run_sql("SELECT id FROM signal") == []


@timed_case
@slow_or_fast
async def test_four_minutes_off_is_accepted_and_shown_in_the_sources_health(
    http: httpx.AsyncClient, cast: Cast, case: Case, behind: bool
) -> None:
    key = await key_of(cast.alice)
    source = await make_source(http, key, scheme=case.scheme, secret=case.secret, settings=case.settings)
    ids = set()
    for _ in range(2):
        answer = await deliver(http, source, case, 240 if behind else -240)
        assert answer.status_code == 202, answer.text
        ids.add(answer.json()["signal_id"])
    assert {row["id"] for row in await run_sql("SELECT id::text FROM signal")} == ids
    health = (await http.get(f"/api/v1/sources/{source['id']}/health", headers=key)).json()
    assert abs(health["clock_skew_ms"] - (240_000 if behind else -240_000)) < 5_000
    [finding] = [finding for finding in health["findings"] if finding["code"] == "clock_skewed"]
    assert ("behind ours" if behind else "ahead of ours") in finding["message"]
    assert re.search(r"(3\.9\d|4|4\.0\d) minutes", finding["message"])
