"""What a script needs that ComfyUI's Python runs with arguments COMFYUI PACK: the host, and the pack as
`portraits`.
"""

from __future__ import annotations

import importlib.util
import sys

host, pack, *given = sys.argv[1:]
sys.argv = sys.argv[:1]
sys.path[:0] = [host]

import comfy.cli_args  # noqa: E402

comfy.cli_args.args.cpu = True

import comfy.sd  # noqa: E402
import comfy.utils  # noqa: E402
import torch  # noqa: E402

torch.set_num_threads(1)
spec = importlib.util.spec_from_file_location(
    "portraits", f"{pack}/__init__.py", submodule_search_locations=[pack]
)
assert spec is not None and spec.loader is not None
module = importlib.util.module_from_spec(spec)
sys.modules["portraits"] = module
spec.loader.exec_module(module)


def miniature_vae():
    """The miniature's VAE as the stock loader makes it."""
    from portraits.fluxguard_core.mini.world import weights_path

    state, metadata = comfy.utils.load_torch_file(str(weights_path("vae")), return_metadata=True)
    return comfy.sd.VAE(sd=state, metadata=metadata)
