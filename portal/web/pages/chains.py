"""Chains: how each is used and how its nodes are. All organisations share them, so nothing can be changed here."""

from litestar import Response, get
from litestar.params import FromQuery

from portal.accounts.permissions import Permission
from portal.chain.queries import ask_chain, list_chain_states
from portal.ops.checks import silence_of
from portal.web.asking import AtDesk
from portal.web.desk import desk_page
from portal.web.render import AnyRequest

READ = {"permission": Permission.CHAINS_READ}


@get("/chains", opt=READ)
async def show_chains(request: AnyRequest, desk: AtDesk) -> Response[str]:
    """As a worker last saw them: a node that is slow keeps nobody waiting."""
    rows = [
        {"state": state, "silent": silence_of(state.chain.head_at, state.watched_at)}
        for state in await list_chain_states()
    ]
    return desk_page(request, desk, "chains/list.html", active="chains", rows=rows)


@get("/chains/check", opt=READ)
async def check_chain(request: AnyRequest, desk: AtDesk, chain_id: FromQuery[int]) -> Response[str]:
    """What the chain's nodes say now: the one page that asks them, for who wants to know it."""
    return desk_page(request, desk, "chains/check.html", active="chains", answer=await ask_chain(chain_id))


handlers = [show_chains, check_chain]
