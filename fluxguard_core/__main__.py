"""The commands without an installed package: `python -m fluxguard_core`, or `python PATH/fluxguard_core`.

The second form needs no certain folder. It also works with a Python that does not look for modules in the folder
where it was started, as in ComfyUI's portable build for Windows.
"""

from __future__ import annotations

import sys
from pathlib import Path

if not __package__:
    sys.path[0] = str(Path(__file__).resolve().parents[1])

from fluxguard_core.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
