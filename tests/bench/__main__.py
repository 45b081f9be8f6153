"""`make bench`: runs the module of this folder that `BENCH` names, `intake` unless it is set."""

import importlib
import os
import sys
from pathlib import Path

NAMES = sorted(file.stem for file in Path(__file__).parent.glob("*.py") if "\ndef main(" in file.read_text())

if __name__ == "__main__":
    name = os.environ.get("BENCH", "intake")
    if name not in NAMES:
        sys.exit(f"There is no bench named {name!r}; take one of: {', '.join(NAMES)}.")
    importlib.import_module(f"tests.bench.{name}").main()
