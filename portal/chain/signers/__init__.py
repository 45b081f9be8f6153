"""The only room that uses keys: local ones, sealed for the database, and those of AWS KMS and signing services.

Everybody else asks `sign` and gets bytes that were decoded again and compared with what was asked for.
"""

from portal.chain.signers.encoding import SignedTransaction, TransactionFields, read_fields
from portal.chain.signers.errors import SignatureNotOurs, SignerNotActive, SignerUnavailable
from portal.chain.signers.local import HoldingKey, new_holding_key, reseal_keys, store_holding_keys
from portal.chain.signers.service import check_signers, load_signers, make_pending_keys, sign

__all__ = [
    "HoldingKey",
    "SignatureNotOurs",
    "SignedTransaction",
    "SignerNotActive",
    "SignerUnavailable",
    "TransactionFields",
    "check_signers",
    "load_signers",
    "make_pending_keys",
    "new_holding_key",
    "read_fields",
    "reseal_keys",
    "sign",
    "store_holding_keys",
]
