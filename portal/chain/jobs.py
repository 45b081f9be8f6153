"""Jobs of this room."""

from portal.chain.signers import make_pending_keys


async def make_signer_keys() -> int:
    """Give pending signers their keys; how many got one."""
    return await make_pending_keys()
