"""The description of the API for programs (`/api/openapi.json`) and for people (`/api/docs`)."""

from typing import Any

from litestar import MediaType, Request, Router
from litestar.exceptions import NotFoundException
from litestar.openapi import OpenAPIConfig
from litestar.openapi.plugins import JsonRenderPlugin, OpenAPIRenderPlugin
from litestar.openapi.spec import Components, SecurityScheme, Tag

from portal.accounts.permissions import Permission
from portal.api.docs import docs_page

DESCRIPTION = """\
Signal Portal lets an organisation act on a blockchain without anybody holding a wallet.

Send an API key (`sp_...`) or the session token of a person as `Authorization: Bearer`. A key acts for its organisation
within its scopes and can never approve. A person with several organisations names one by its slug in `X-Organization`.

Lists are `{"items": [...], "next_cursor": null}`; ask for the next page with `?cursor=`. Amounts of wei and of tokens
are decimal strings, times are UTC. A refusal is `application/problem+json` with a `code` for programs, a `detail` for
people and, for input, `errors` with a JSON pointer each. `X-Correlation-Id` is taken and given back with every answer.

With an `Idempotency-Key`, a POST is carried out once and answered alike for 24 hours (deliveries have their own ids).
PUT and DELETE need `If-Match` with the `ETag` of what was read: 428 without, 412 if it has changed."""

TAGS = {
    "Sessions": "Signing in as a person.",
    "Sources": "Configured senders, their secrets, and the deliveries they had refused.",
    "Signals": "What was received: authentic, stored for ever, processed once.",
    "Exports": "The history of signals as a file, written in the background.",
    "Replays": "Signals that are assessed, or checked, once more, in the background.",
    "Retention": "How long bodies are kept.",
    "Rules": "Conditions on signals, and the actions they propose.",
    "Actions": "Proposed calls and the decisions about them.",
    "Policies": "How many people must agree.",
    "Transactions": "What carries out approved actions.",
    "Lanes": "The ordered nonces of each signer on each chain.",
    "Pauses": "What was stopped, and the votes to go on.",
    "Contracts": "What may be called.",
    "Signers": "Keys that the organisation holds.",
    "Chains": "Where it all runs.",
    "Members": "People who work in the organisation.",
    "End users": "People whom the organisation acts for.",
    "API keys": "Programs that act for the organisation.",
    "Webhooks": "Where events are sent, and what became of each delivery.",
    "Events": "What happened, for programs that ask instead of being told.",
    "Audit": "Who did what, in a chain of hashes.",
}


class DocsPlugin(OpenAPIRenderPlugin):
    """Our own page: no script, nothing from elsewhere."""

    def __init__(self) -> None:
        super().__init__(path="/docs", media_type=MediaType.HTML)

    def render(self, request: Request[Any, Any, Any], openapi_schema: dict[str, Any]) -> bytes:
        return docs_page(openapi_schema)


def refuse_unknown(request: Request[Any, Any, Any]) -> None:
    """Litestar answers other addresses beside the description with a bare page; here they are a problem like any."""
    if "path" in request.path_params:
        raise NotFoundException


openapi_config = OpenAPIConfig(
    title="Signal Portal",
    version="1",
    description=DESCRIPTION,
    use_handler_docstrings=True,
    tags=[Tag(name=name, description=description) for name, description in TAGS.items()],
    security=[{"apiKey": []}, {"session": []}],
    components=Components(
        security_schemes={
            "apiKey": SecurityScheme(
                type="http", scheme="bearer", description="An API key `sp_...` of an organisation, within its scopes."
            ),
            "session": SecurityScheme(
                type="http", scheme="bearer", description="A person's session token, from POST /api/v1/sessions."
            ),
        }
    ),
    render_plugins=[JsonRenderPlugin(), DocsPlugin()],
    openapi_router=Router(
        "/api",
        route_handlers=[],
        include_in_schema=False,
        before_request=refuse_unknown,
        opt={"permission": Permission.PUBLIC, "exclude_from_auth": True},
    ),
)
