"""The description of the API, for programs and for people."""

import json
import re
from html import unescape
from typing import Any

import httpx

from portal.errors import PortalError


async def test_the_description_is_complete_and_its_references_resolve(http: httpx.AsyncClient) -> None:
    answer = await http.get("/api/openapi.json")
    assert answer.status_code == 200
    schema: dict[str, Any] = answer.json()
    assert schema["openapi"].startswith("3.1")
    references = set(re.findall(r'"#/components/schemas/([^"]+)"', answer.text))
    assert references <= schema["components"]["schemas"].keys()
    assert {"apiKey", "session"} == schema["components"]["securitySchemes"].keys()
    delivery = schema["paths"]["/api/v1/sources/{source_id}/signals"]["post"]
    assert delivery["security"] == [{}]
    assert "202" in delivery["responses"]


async def test_the_page_needs_nothing_from_elsewhere_and_no_script(http: httpx.AsyncClient) -> None:
    page = await http.get("/api/docs")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "<script" not in page.text
    assert " style=" not in page.text
    assert not re.search(r"""(src|href|action|url)\s*[=(]\s*["']?[a-z]*:?//""", page.text)
    stylesheet = re.findall(r'<link rel="stylesheet" href="([^"]+)"', page.text)
    assert [(await http.get(address)).status_code for address in stylesheet] == [200]


async def test_the_page_lists_every_operation_and_every_code(http: httpx.AsyncClient) -> None:
    schema, page = (await http.get("/api/openapi.json")).json(), unescape((await http.get("/api/docs")).text)
    for path, item in schema["paths"].items():
        for operation in item.values():
            assert operation["summary"] in page
        assert path in page
    assert {kind.__name__ for kind in PortalError.__subclasses__()} >= {"NotFound", "Conflict"}
    for code in ("digest_changed", "signature_invalid", "version_missing", "idempotency_key_reused"):
        assert f'id="problem-{code}"' in page


async def test_a_refusal_names_where_it_is_explained(http: httpx.AsyncClient) -> None:
    said = json.loads((await http.get("/api/v1/me")).text)
    page, _, anchor = said["type"].partition("#")
    assert f'id="{anchor}"' in (await http.get(page)).text
    assert said["instance"] == "/api/v1/me"
