"""mypy over everything: the library by its own name, and the nodes as a host imports them.

A host imports this folder as a package, so nodes import `..fluxguard_core`. A package needs a name that can be
imported, and a clone may have any: the nodes are looked at through a link of a name that can.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
NAME = "fluxguard_pack"


def main() -> int:
    command = [sys.executable, "-m", "mypy", "--config-file", str(ROOT / "pyproject.toml")]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / NAME).symlink_to(ROOT, target_is_directory=True)
        env = os.environ | {"MYPYPATH": folder}
        nodes = subprocess.run([*command, "-p", f"{NAME}.nodes"], env=env, cwd=ROOT, check=False)
    library = subprocess.run(command, cwd=ROOT, check=False)
    return max(nodes.returncode, library.returncode)


if __name__ == "__main__":
    sys.exit(main())
