"""Chains: how each is used and how its nodes are. All organisations share them, so nothing can be changed here."""

from litestar import Response, get

from portal.accounts.permissions import Permission
from portal.chain.queries import list_chain_states
from portal.web.asking import AtDesk
from portal.web.desk import desk_page
from portal.web.render import AnyRequest


@get("/chains", opt={"permission": Permission.CHAINS_READ})
async def show_chains(request: AnyRequest, desk: AtDesk) -> Response[str]:
    return desk_page(request, desk, "chains/list.html", active="chains", states=await list_chain_states())


handlers = [show_chains]
