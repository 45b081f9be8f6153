"""All HTML pages, in one router that the application mounts."""

from litestar import Router
from litestar.di import Provide

from portal.web.desk import provide_desk
from portal.web.pages import (
    account,
    actions,
    api_keys,
    audit,
    chains,
    contracts,
    end_users,
    health,
    inbox,
    invitations,
    lanes,
    live,
    mine,
    overview,
    own_contracts,
    pauses,
    people,
    policies,
    proposing,
    refused,
    rules,
    sign_in,
    signal_batches,
    signals,
    signers,
    source_schemas,
    source_wizard,
    sources,
    transaction_controls,
    transactions,
)

member_router = Router(
    path="/orgs/{slug:str}",
    route_handlers=[
        *inbox.handlers,
        *actions.handlers,
        *proposing.handlers,
        *overview.handlers,
        *people.handlers,
        *signals.handlers,
        *signal_batches.handlers,
        *refused.handlers,
        *transactions.handlers,
        *transaction_controls.handlers,
        *lanes.handlers,
        *pauses.handlers,
        *sources.handlers,
        *source_wizard.handlers,
        *source_schemas.handlers,
        *rules.handlers,
        *policies.handlers,
        *contracts.handlers,
        *own_contracts.handlers,
        *signers.handlers,
        *chains.handlers,
        *end_users.handlers,
        *api_keys.handlers,
        *audit.handlers,
        *health.handlers,
        *live.handlers,
    ],
    dependencies={"desk": Provide(provide_desk)},
)

web_router = Router(
    path="/",
    route_handlers=[
        *sign_in.handlers,
        *invitations.handlers,
        *account.handlers,
        *mine.handlers,
        member_router,
    ],
    include_in_schema=False,
)
