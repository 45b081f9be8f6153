"""Signal Portal: an organisation acts on a blockchain without anybody holding a wallet."""

import os

os.environ.setdefault("PICCOLO_CONF", "portal.piccolo_conf")
