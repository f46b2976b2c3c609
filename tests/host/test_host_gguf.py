"""GGUF files through the loader pack that brings them, where it lies beside the host or in its custom_nodes.

The pack (ComfyUI-GGUF) is on no package index, so most machines skip this; `Probe_QuantisedLoader` has layers of
the same kind and runs everywhere.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from fluxguard_core.mini.world import weights_path

from .conftest import prepare
from .server import Server, host_path, running
from .test_host_concepts import Asking, overlap, seen, true_hair

FILE = "fluxguard-mini-q8.gguf"


def loader_pack() -> Path | None:
    host = host_path()
    places = (
        () if host is None else (host.with_name("ComfyUI-GGUF"), host / "custom_nodes/ComfyUI-GGUF")
    )
    return next((place for place in places if (place / "__init__.py").is_file()), None)


def write_gguf(path: Path) -> None:
    """The miniature's transformer as a GGUF file: matrices in Q8_0, blocks of 32 values, the rest as it is."""
    gguf = pytest.importorskip("gguf")
    kinds = gguf.GGMLQuantizationType
    writer = gguf.GGUFWriter(str(path), "flux")
    for name, tensor in load_file(weights_path("flux")).items():
        values = tensor.float().numpy()
        if values.ndim == 2 and values.shape[1] % 32 == 0:
            packed = gguf.quants.quantize(values, kinds.Q8_0)
            writer.add_tensor(name, packed, raw_dtype=kinds.Q8_0)
        else:
            writer.add_tensor(name, values, raw_dtype=kinds.F32)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


@pytest.fixture(scope="module")
def server(
    installation: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Server]:
    pack = loader_pack()
    if pack is None:
        pytest.skip("no ComfyUI-GGUF beside the host")
    base = tmp_path_factory.mktemp("gguf")
    prepare(base)
    write_gguf(base / "models" / "diffusion_models" / FILE)
    (base / "custom_nodes").mkdir()
    (base / "custom_nodes" / "ComfyUI-GGUF").symlink_to(pack, target_is_directory=True)
    with running(*installation, base) as server:
        yield server


@pytest.mark.another_pack
def test_concept_attention_of_a_gguf_model_with_and_without_a_lora(server: Server) -> None:
    graphs = {
        "plain": Asking(),
        "gguf": Asking("UnetLoaderGGUF", unet_name=FILE),
        "lora": Asking(lora=True),
        "gguf with lora": Asking("UnetLoaderGGUF", unet_name=FILE, lora=True),
    }
    masks: dict[str, Tensor] = {}
    for name, graph in graphs.items():
        node, saved = graph.mask("red hair")
        outcome = server.result(graph.graph)
        masks[name] = seen(server, outcome, saved)
        assert "by concept attention, sure 0." in outcome.outputs[node]["text"][0]
    assert overlap(masks["gguf"], true_hair()) > 0.4
    assert overlap(masks["gguf"], masks["plain"]) > 0.9
    assert overlap(masks["gguf with lora"], masks["lora"]) > 0.9
    assert overlap(masks["gguf with lora"], masks["lora"]) > overlap(masks["gguf"], masks["lora"])
