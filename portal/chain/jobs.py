"""Jobs of this room."""

from portal.chain import signers

RESEALED_A_RUN = 10_000
"""In batches, each a db transaction of its own; the rest waits for the next run."""


async def make_signer_keys() -> int:
    """Make pending signers active that can be; how many became so."""
    return await signers.make_pending_keys()


async def check_signers() -> int:
    """See whether signers can sign that could not, or whose key is remote; of how many that changed."""
    return await signers.check_signers()


async def reseal_signer_keys() -> int:
    """Encrypt anew what is encrypted with the sealing key before this one; how many keys."""
    done = 0
    while done < RESEALED_A_RUN and (sealed := await signers.reseal_keys()):
        done += sealed
    return done
