"""Whatever is sent, there is an answer below 500: every operation, valid and invalid input, with a key and without."""

import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import httpx
import pytest
import requests
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from litestar import Litestar
from schemathesis.generation import GenerationMode

from tests.actions import Stage
from tests.http.api import deliver, key_of, make_source, session_of

EXAMPLES = 5
"""Of each kind for each operation. Derandomised, so that a failure comes again."""
GENERATING = settings(
    max_examples=EXAMPLES,
    database=None,
    deadline=None,
    derandomize=True,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.generate],
)
SCHEMATHESIS_SAYS = re.compile(r"[^\x20-\x7e]")


def drawn(strategy: st.SearchStrategy[Any]) -> list[Any]:
    """Examples of a strategy. They are sent later, in the loop that the application's pool belongs to."""
    found: list[Any] = []

    @GENERATING
    @given(strategy)
    def draw(example: Any) -> None:
        found.append(example)

    with suppress(Unsatisfiable):  # nothing about a request without parts can be wrong
        draw()
    return found


def requests_of(app: Litestar, ids: dict[str, str]) -> Iterator[requests.PreparedRequest]:
    """Generated requests of every operation; every other one names things that exist."""
    schema = schemathesis.openapi.from_dict(app.openapi_schema.to_schema())
    for found in schema.get_all_operations():
        operation = found.ok()
        for mode in GenerationMode:
            for place, case in enumerate(drawn(operation.as_strategy(generation_mode=mode))):
                if place % 2:
                    case.path_parameters = {**case.path_parameters, **{k: v for k, v in ids.items() if k in case.path}}
                asked = case.as_transport_kwargs(base_url="http://127.0.0.1:8000")
                asked["headers"] = {k: SCHEMATHESIS_SAYS.sub("?", str(v)) for k, v in asked["headers"].items()}
                yield requests.Request(**asked).prepare()


async def send(http: httpx.AsyncClient, asked: requests.PreparedRequest, headers: dict[str, str]) -> httpx.Response:
    body = asked.body.encode() if isinstance(asked.body, str) else asked.body
    sent = {**dict(asked.headers), **headers}
    sent.pop("Content-Length", None)
    return await http.request(str(asked.method), str(asked.url), content=body, headers=sent)


@pytest.mark.parametrize("who", ["stranger", "insider"])
async def test_no_request_breaks_an_operation(http: httpx.AsyncClient, app: Litestar, stage: Stage, who: str) -> None:
    key = await key_of(stage.cast.alice)
    source = await make_source(http, key)
    ids = {
        "source_id": source["id"],
        "secret_id": source["secrets"][0]["id"],
        "signal_id": (await deliver(http, source, {"n": 1})).json()["signal_id"],
        "action_id": str((await stage.propose_mint()).id),
        "policy_id": str(stage.policy_id),
        "contract_id": str(stage.contract_id),
        "signer_id": str(stage.signer_id),
        "member_id": str(stage.cast.oscar.actor.id),
        "end_user_id": str(stage.ada_id),
    }
    person = await session_of(stage.cast.alice)
    statuses: dict[int, int] = {}
    for asked in requests_of(app, ids):
        # What only a person may do, a person does, and never signs out.
        own = person if str(asked.url).endswith(("/approvals", "/rejections", "/me")) else key
        own = own if who == "insider" else {}
        answer = await send(http, asked, {**own, "If-Match": "*"})
        statuses[answer.status_code] = statuses.get(answer.status_code, 0) + 1
        told = f"{asked.method} {asked.url} {asked.body!r} -> {answer.status_code} {answer.text[:500]}"
        assert answer.status_code < 500, told
        if answer.status_code >= 400:
            assert answer.headers["content-type"] == "application/problem+json", told
            assert answer.json()["code"], told
    if who == "stranger":
        assert not any(200 <= status < 300 for status in statuses), statuses
    else:
        assert statuses[200] > 50, statuses
        assert statuses[400] > 50, statuses
