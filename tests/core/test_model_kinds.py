"""Model files and folders that are not what was asked for: one sentence that names what they are."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.backends.flux import decode_latent, encode_image
from fluxguard_core.backends.flux_files import from_files, load_transformer, load_vae
from fluxguard_core.backends.flux_folder import from_folder
from fluxguard_core.backends.flux_keys import flux_from_diffusers
from fluxguard_core.backends.geometry import FLUX, FLUX2, geometry_of
from fluxguard_core.backends.taesd import PooledBlock
from fluxguard_core.backends.word_check import require_words_told_apart
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.pictures.files import read_picture

from .pipeline_folder import tiny_pipeline
from .tiny import encode_words, noise, tiny_transformer

State = dict[str, Tensor]
BASE = flux_from_diffusers(tiny_transformer().state_dict())
MATRICES = [key for key, value in BASE.items() if value.ndim == 2 and key.endswith("weight")]
REAL = os.environ.get("FLUXGUARD_REAL")


def written(path: Path, state: State) -> Path:
    save_file({key: value.contiguous() for key, value in state.items()}, path)
    return path


def eight_bits(scale: str | None = None) -> tuple[State, State]:
    """An fp8 file, scaled where a scale's name is given, and the state it stands for."""
    stored, meant = dict(BASE), dict(BASE)
    for key in MATRICES:
        factor = 1.0 if scale is None else float(BASE[key].abs().max()) / 400
        stored[key] = (BASE[key] / factor).to(torch.float8_e4m3fn)
        meant[key] = stored[key].float() * factor
        if scale is not None:
            stored[key.removesuffix("weight") + scale] = torch.tensor(factor)
    return stored, meant


@pytest.mark.parametrize("scale", [None, "scale_weight", "weight_scale"])
def test_fp8_files_mean_what_their_scales_say(tmp_path: Path, scale: str | None) -> None:
    stored, meant = eight_bits(scale)
    if scale is not None:
        stored["scaled_fp8"] = torch.zeros(0, dtype=torch.float8_e4m3fn)
    got = load_transformer(written(tmp_path / "fp8.safetensors", stored))
    expected = load_transformer(written(tmp_path / "plain.safetensors", meant))
    for ours, theirs in zip(got.parameters(), expected.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    assert not any(parameter.requires_grad for parameter in got.parameters())


def changed(**more: Tensor) -> State:
    return {**BASE, **more}


TRANSFORMERS: dict[str, State] = {
    "NF4": changed(**{f"{MATRICES[0]}.absmax": torch.zeros(4)}),
    "Nunchaku": changed(**{"double_blocks.0.img_attn.qkv.qweight": torch.zeros(4)}),
    "scale of .* is missing": {**eight_bits()[0], "scaled_fp8": torch.zeros(0)},
    "FLUX.1 Fill": {**BASE, "img_in.weight": torch.zeros(128, 384)},
    "control model": {**BASE, "img_in.weight": torch.zeros(128, 128)},
    "Chroma": changed(**{"distilled_guidance_layer.in_proj.weight": torch.zeros(4, 4)}),
    "FLUX.2": changed(**{"double_stream_modulation_img.lin.weight": torch.zeros(4, 4)}),
    "SDXL": {"model.diffusion_model.label_emb.0.0.weight": torch.zeros(4, 4)},
    "Stable Diffusion 3": {"model.diffusion_model.joint_blocks.0.x": torch.zeros(4)},
    "diffusers' key names": dict(tiny_transformer().state_dict()),
    "LoRA": {"lora_unet_single_blocks_0_linear2.lora_down.weight": torch.zeros(2, 4)},
    "an autoencoder": {"decoder.conv_in.weight": torch.zeros(8, 16, 3, 3)},
    "a text encoder": {"encoder.block.0.layer.0.SelfAttention.q.weight": torch.zeros(4, 4)},
    "not a FLUX.1 transformer": {"weight": torch.zeros(2)},
    "Unknown weight": changed(extra=torch.zeros(1)),
    "does not fit": {k: v for k, v in BASE.items() if not k.startswith("single_blocks.1.")},
    "damaged or quantised": changed(**{"double_blocks.0.img_attn.qkv.weight": torch.zeros(7)}),
}


@pytest.mark.parametrize("words", TRANSFORMERS)
def test_a_transformer_file_is_named(tmp_path: Path, words: str) -> None:
    path = written(tmp_path / "model.safetensors", TRANSFORMERS[words])
    with pytest.raises(FluxGuardError, match=words) as caught:
        load_transformer(path)
    if words not in ("Unknown weight", "damaged or quantised"):
        assert "model.safetensors" in str(caught.value)


def test_kontext_is_known_by_its_name(tmp_path: Path) -> None:
    with pytest.raises(FluxGuardError, match="Kontext"):
        load_transformer(written(tmp_path / "flux1-Kontext-dev.safetensors", BASE))


def test_gguf_and_pages_are_named(tmp_path: Path) -> None:
    (tmp_path / "a.gguf").write_bytes(b"GGUF\x03\0\0\0" + bytes(400))
    (tmp_path / "a.safetensors").write_bytes(b"<!doctype html><html>sign in</html>")
    for load in (load_transformer, load_vae):
        with pytest.raises(FluxGuardError, match=r"a\.gguf is a GGUF file"):
            load(tmp_path / "a.gguf")
        with pytest.raises(FluxGuardError, match=r"a\.safetensors is a web page"):
            load(tmp_path / "a.safetensors")


AUTOENCODERS: dict[str, State] = {
    "FLUX.2": {"bn.running_mean": torch.zeros(128), "encoder.conv_in.weight": torch.zeros(4)},
    "diffusers' key names": {"encoder.down_blocks.0.resnets.0.conv1.weight": torch.zeros(4)},
    "a FLUX transformer": BASE,
    "Stable Diffusion or SDXL": {
        "first_stage_model.encoder.conv_in.weight": torch.zeros(8, 3, 3, 3),
        "first_stage_model.encoder.down.0.block.0.conv1.weight": torch.zeros(8, 8, 3, 3),
        "first_stage_model.decoder.conv_in.weight": torch.zeros(8, 4, 3, 3),
    },
    "does not lie beside it": {"0.weight": torch.zeros(64, 3, 3, 3)},
    "incomplete|does not fit": {
        "encoder.conv_in.weight": torch.zeros(32, 3, 3, 3),
        "encoder.down.0.block.0.conv1.weight": torch.zeros(32, 32, 3, 3),
        "decoder.conv_in.weight": torch.zeros(32, 16, 3, 3),
    },
}


@pytest.mark.parametrize("words", AUTOENCODERS)
def test_an_autoencoder_file_is_named(tmp_path: Path, words: str) -> None:
    with pytest.raises(FluxGuardError, match=words):
        load_vae(written(tmp_path / "x_encoder.safetensors", AUTOENCODERS[words]))


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("flux")
    tiny_pipeline(path).save_pretrained(path / "good")
    return path / "good"


def _index(folder: Path, kind: str) -> None:
    index = folder / "model_index.json"
    content = json.loads(index.read_text(encoding="utf-8"))
    index.write_text(json.dumps({**content, "_class_name": kind}), encoding="utf-8")


def _weights(folder: Path, part: str = "transformer") -> Path:
    return next((folder / part).glob("*.safetensors"))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-500])


def _channels(folder: Path) -> None:
    config = folder / "transformer" / "config.json"
    content = {**json.loads(config.read_text(encoding="utf-8")), "in_channels": 384}
    config.write_text(json.dumps(content), encoding="utf-8")


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"
FOLDERS: dict[str, Callable[[Path], object]] = {
    "FLUX.1 Kontext, not": lambda f: _index(f, "FluxKontextPipeline"),
    "diffusers' StableDiffusion3Pipeline": lambda f: _index(f, "StableDiffusion3Pipeline"),
    r"takes 384 channels .*Fill": _channels,
    "no folder vae": lambda f: shutil.rmtree(f / "vae"),
    "no folder tokenizer_2": lambda f: shutil.rmtree(f / "tokenizer_2"),
    "tokenizer_2 lacks its words": lambda f: (f / "tokenizer_2" / "tokenizer.json").unlink(),
    "transformer holds no weights": lambda f: _weights(f).unlink(),
    "a Git LFS pointer": lambda f: _weights(f).write_text(POINTER, encoding="utf-8"),
    "is truncated": lambda f: _cut(_weights(f)),
    "text_encoder_2.*is truncated": lambda f: _cut(_weights(f, "text_encoder_2")),
    "half-finished": lambda f: (f / "vae" / "x.safetensors.incomplete").write_bytes(b"x"),
    "model_index.json is a web page": lambda f: (f / "model_index.json").write_text(
        "<!doctype html>", encoding="utf-8"
    ),
    "vae/config.json is missing": lambda f: (f / "vae" / "config.json").unlink(),
    "a link to a file": lambda f: (f / "vae" / "y.safetensors").symlink_to(f / "none"),
}


@pytest.mark.parametrize("words", FOLDERS)
def test_a_folder_is_looked_at_before_it_is_loaded(good: Path, tmp_path: Path, words: str) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(good, folder)
    FOLDERS[words](folder)
    with pytest.raises(FluxGuardError, match=words):
        from_folder(folder)


def test_a_shard_that_is_missing_is_named(good: Path, tmp_path: Path) -> None:
    folder = tmp_path / "copy"
    shutil.copytree(good, folder)
    shards = {"weight_map": {"a": _weights(folder).name, "b": "part-00002.safetensors"}}
    index = folder / "transformer" / "m.safetensors.index.json"
    index.write_text(json.dumps(shards), encoding="utf-8")
    with pytest.raises(FluxGuardError, match=r"no file .*part-00002"):
        from_folder(folder)


def test_words_that_make_no_difference_are_noticed(good: Path) -> None:
    pipeline = tiny_pipeline(good.parent)
    require_words_told_apart(pipeline, "m")
    deaf = SimpleNamespace(
        tokenizer=pipeline.tokenizer,
        tokenizer_2=lambda text: SimpleNamespace(input_ids=[2] * len(text)),
        encode_prompt=pipeline.encode_prompt,
    )
    with pytest.raises(FluxGuardError, match=r"tokenizer m/tokenizer_2 .*the same tokens"):
        require_words_told_apart(deaf, "m")
    for part, name in ((0, "m/text_encoder_2"), (1, "m/text_encoder")):
        results = list(pipeline.encode_prompt(["a", "b"], prompt_2=None, max_sequence_length=8))
        results[part] = torch.ones_like(results[part])
        pipeline_like = SimpleNamespace(
            tokenizer=pipeline.tokenizer,
            tokenizer_2=pipeline.tokenizer_2,
            encode_prompt=lambda *_, results=results, **__: results,
        )
        with pytest.raises(FluxGuardError, match=f"{name} .*the same embedding"):
            require_words_told_apart(pipeline_like, "m")
        results[part] = results[part] * float("nan")
        with pytest.raises(FluxGuardError, match=f"{name} returns NaN"):
            require_words_told_apart(pipeline_like, "m")


@pytest.mark.skipif(REAL is None, reason="FLUXGUARD_REAL names no folder of real files")
@pytest.mark.parametrize("half", ["encoder", "decoder"])
def test_the_tiny_autoencoder_of_flux2_reads_photos_at_its_own_scale(
    tmp_path: Path, half: str
) -> None:
    vae = load_vae(Path(str(REAL)) / "autoencoder" / f"taef2_{half}.pth", torch.float16)
    assert geometry_of(vae) == FLUX2 and FLUX2.channels == 32 and FLUX2.pixels == FLUX.pixels
    assert any(isinstance(layer, PooledBlock) for layer in vae.decoder.layers)
    assert next(vae.parameters()).dtype == torch.float32
    photo = sorted((Path(str(REAL)) / "photos").glob("*/*.jpg"))[0]
    picture = torch.nn.functional.interpolate(
        read_picture(photo).rgb, (256, 256), mode="bicubic", antialias=True
    ).clamp(0, 1)

    def loss(scale: float, shift: float = 0.0) -> float:
        return float((decode_latent(vae, latent * scale + shift) - picture).square().mean())

    with torch.no_grad():
        latent = encode_image(vae, picture)
        assert latent.shape == (1, 32, 32, 32)
        assert loss(1.0) < 10 ** (-25 / 10)
        others = [loss(0.8), loss(1.25), loss(1.0, 0.2), loss(1.0, -0.2)]
    assert loss(1.0) < 0.5 * min(others)
    transformer = written(tmp_path / "flux.safetensors", BASE)
    with pytest.raises(FluxGuardError, match="latent of 32 channels, the transformer takes 16"):
        from_files(transformer, Path(str(REAL)) / "autoencoder/taef2_encoder.pth", encode_words)


def test_the_pools_of_a_tiny_autoencoder_are_read_and_used(tmp_path: Path) -> None:
    """FLUX.2's layout with random weights, in two files: the same function as its formula."""
    halves: dict[str, State] = {"encoder": {}, "decoder": {}}

    def conv(half: str, name: str, out: int, inside: int, bias: bool = True, side: int = 3) -> None:
        seed = len(halves[half])
        halves[half][f"{name}.weight"] = 0.1 * noise(out, inside, side, side, seed=seed)
        if bias:
            halves[half][f"{name}.bias"] = 0.1 * noise(out, seed=seed + 1)

    def block(half: str, index: int, pooled: bool) -> None:
        for part in (0, 2, 4):
            conv(half, f"{index}.conv.{part}", 64, 64)
        if pooled:
            conv(half, f"{index}.pool.0", 256, 64, bias=False, side=1)
            halves[half][f"{index}.pool.1.weight"] = torch.ones(256)
            halves[half][f"{index}.pool.1.bias"] = torch.zeros(256)
            conv(half, f"{index}.pool.3", 64, 256, bias=False, side=1)

    conv("encoder", "0", 64, 3)
    conv("encoder", "14", 32, 64)
    conv("decoder", "1", 64, 32)
    conv("decoder", "19", 3, 64)
    for index in (1, 3, 4, 5, 7, 8, 9, 11, 12, 13):
        block("encoder", index, index > 10)
    for index in (3, 4, 5, 8, 9, 10, 13, 14, 15, 18):
        block("decoder", index, index < 6)
    for index in (2, 6, 10):
        conv("encoder", str(index), 64, 64, bias=False)
    for index in (7, 12, 17):
        conv("decoder", str(index), 64, 64, bias=False)
    for half, state in halves.items():
        torch.save(state, tmp_path / f"t_{half}.pth")
    vae = load_vae(tmp_path / "t_encoder.pth")
    x = noise(1, 64, 4, 4)
    layer, state = vae.decoder.layers[2], halves["decoder"]
    pooled = torch.nn.functional.conv2d(x, state["3.pool.0.weight"])
    pooled = torch.nn.functional.group_norm(pooled, 4).relu()
    y = x + torch.nn.functional.conv2d(pooled, state["3.pool.3.weight"])
    z = y
    for part in (0, 2, 4):
        z = torch.nn.functional.conv2d(
            z, state[f"3.conv.{part}.weight"], state[f"3.conv.{part}.bias"], padding=1
        )
        z = z.relu() if part < 4 else z
    assert torch.allclose(layer(x), (y + z).relu(), atol=1e-4)
    assert geometry_of(vae) == FLUX2
    (tmp_path / "t_decoder.pth").unlink()
    with pytest.raises(FluxGuardError, match=r"only the encoder .*t_decoder\.pth"):
        load_vae(tmp_path / "t_encoder.pth")
