"""Sources that are asked instead of sending: what they have goes the same way as what is received.

A kind is no scheme: there is no signature. What vouches for a fact is the certificate of the API it came from, or the
node that the operator chose.
"""

from portal.signals.pulls.evm_logs import EVM_LOGS
from portal.signals.pulls.kinds import PullKind
from portal.signals.pulls.poll import POLL

KINDS: dict[str, PullKind] = {kind.name: kind for kind in (POLL, EVM_LOGS)}
"""By the name that `source.scheme` holds."""
