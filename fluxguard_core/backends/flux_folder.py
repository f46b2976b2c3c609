"""FLUX.1 from a diffusers folder, offline: every file in it is looked at before the first is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from ..errors import FluxGuardError
from ..weights.errors import ModelFileError
from ..weights.kinds import UNFINISHED, stand_in
from ..weights.loading import contents_of
from .flux import DiffusersModel, FluxStack, diffusers, from_pipeline
from .model_kinds import require_flux_channels
from .word_check import require_words_told_apart

_AGAIN = "Download the folder of FLUX.1-dev again, completely."
_TOKENIZERS = {
    "tokenizer": (("vocab.json", "merges.txt"), ("tokenizer.json",)),
    "tokenizer_2": (("tokenizer.json",), ("spiece.model",)),
}
_TEXT = ("text_encoder", "text_encoder_2")
_PIPELINES = {
    "FluxFillPipeline": "FLUX.1 Fill",
    "FluxKontextPipeline": "FLUX.1 Kontext",
    "FluxControlPipeline": "a FLUX.1 control model",
    "FluxPriorReduxPipeline": "FLUX.1 Redux",
    "Flux2Pipeline": "FLUX.2",
    "ChromaPipeline": "Chroma",
}


def from_folder(
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.bfloat16,
    device: str = "cpu",
    offload: bool = False,
) -> FluxStack:
    """Load a diffusers FLUX.1 folder from disk, offline.

    Args:
        dtype: of transformer and text encoders; with float16 the autoencoder is float32.
        offload: let diffusers move each part to ``device`` only while it works.

    Raises:
        FluxGuardError: names the file that is missing, unfinished, foreign or of another model; or the
            text encoders do not tell words apart.
    """
    place = Path(folder)
    check_folder(place, ("transformer", "vae", *_TEXT, *_TOKENIZERS))
    pipeline = open_pipeline(place, torch_dtype=dtype)
    require_flux_channels(pipeline.transformer.config.in_channels, f"{place.name}/transformer")
    if dtype == torch.float16:
        pipeline.vae.to(torch.float32)
    if offload:
        pipeline.enable_model_cpu_offload(device=device)
    else:
        pipeline.to(device)
    require_words_told_apart(pipeline, place.name)
    return from_pipeline(pipeline)


def open_pipeline(folder: Path, **options: Any) -> DiffusersModel:
    """``FluxPipeline.from_pretrained`` without the network, its errors in words."""
    try:
        return diffusers().FluxPipeline.from_pretrained(folder, local_files_only=True, **options)
    except ImportError as error:
        raise FluxGuardError(
            f"{folder.name} needs a package that is not installed ({_first_line(error)}).",
            "A folder quantised by bitsandbytes, for example, is read with ‹install bitsandbytes›.",
        ) from error
    except Exception as error:  # diffusers and transformers raise whatever a folder leads them to
        raise FluxGuardError(
            f"{folder.name} could not be opened as a FLUX.1 folder ({type(error).__name__}: "
            f"{_first_line(error)}).",
            _AGAIN,
        ) from error


def check_folder(folder: Path, parts: tuple[str, ...]) -> None:
    """Look at what a diffusers folder consists of, reading only the beginnings of its files.

    Args:
        parts: sub-folders that are needed.

    Raises:
        FluxGuardError: says which file is missing or what it is instead.
    """
    _check_index(folder)
    for part in parts:
        place = folder / part
        if not place.is_dir():
            raise FluxGuardError(f"{folder.name} has no folder {part}.", _AGAIN)
        _check_unfinished(place, folder)
        if part in _TOKENIZERS:
            _check_tokenizer(place, folder)
        else:
            read_json(place / "config.json", folder)
            _check_weights(place, folder)
    if "transformer" in parts:
        config = read_json(folder / "transformer" / "config.json", folder)
        require_flux_channels(config.get("in_channels", 64), f"{folder.name}/transformer")


def _check_index(folder: Path) -> None:
    if folder.is_file():
        raise FluxGuardError(
            f"Expected a diffusers FLUX folder, got the file {folder.name}.",
            "Give single files with ‹give transformer› and ‹give vae›.",
        )
    if not (folder / "model_index.json").is_file():
        inner = sorted(place.parent.name for place in folder.glob("snapshots/*/model_index.json"))
        hint = f"It is a cache: give its folder snapshots/{inner[0]}." if inner else ""
        raise FluxGuardError(
            f"Expected a diffusers FLUX folder with model_index.json, got '{folder.name}'.",
            hint
            or "Give the folder of FLUX.1-dev, or single files with ‹give transformer› and ‹give vae›.",
        )
    kind = read_json(folder / "model_index.json", folder).get("_class_name")
    if kind != "FluxPipeline":
        what = _PIPELINES.get(str(kind), f"a folder for diffusers' {kind}")
        raise FluxGuardError(
            f"{folder.name} is {what}, not FLUX.1.",
            "Choose the folder of FLUX.1 dev, schnell or a finetune of them.",
        )


def read_json(file: Path, folder: Path) -> dict[str, Any]:
    """A configuration of the folder; FluxGuardError says what stands there instead."""
    name = f"{folder.name}/{file.relative_to(folder).as_posix()}"
    if not file.is_file():
        raise FluxGuardError(f"{name} is missing.", _AGAIN)
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        what = stand_in(file) or "unreadable"
        raise FluxGuardError(f"{name} is {what}.", _AGAIN) from error
    if not isinstance(content, dict):
        raise FluxGuardError(f"{name} is no configuration.", _AGAIN)
    return content


def _check_unfinished(place: Path, folder: Path) -> None:
    for file in sorted(place.iterdir()):
        if file.name.lower().endswith(UNFINISHED):
            raise FluxGuardError(
                f"{folder.name}/{place.name}/{file.name} is a half-finished download.", _AGAIN
            )
        if file.is_symlink() and not file.exists():
            raise FluxGuardError(
                f"{folder.name}/{place.name}/{file.name} is a link to a file that is not there.",
                _AGAIN,
            )


def _check_tokenizer(place: Path, folder: Path) -> None:
    sets = _TOKENIZERS[place.name]
    present = next((names for names in sets if all((place / n).is_file() for n in names)), None)
    if present is None:
        wanted = " or ".join(" and ".join(names) for names in sets)
        raise FluxGuardError(f"{folder.name}/{place.name} lacks its words ({wanted}).", _AGAIN)
    for name in present:
        if (place / name).stat().st_size == 0 or (found := stand_in(place / name)):
            what = "empty" if (place / name).stat().st_size == 0 else found
            raise FluxGuardError(f"{folder.name}/{place.name}/{name} is {what}.", _AGAIN)


def _check_weights(place: Path, folder: Path) -> None:
    """Every shard there and whole; where several formats lie side by side, safetensors are what is loaded."""
    files = sorted(place.glob("*.safetensors")) or sorted(place.glob("*.bin"))
    for index in sorted(place.glob("*.safetensors.index.json")):
        shards = read_json(index, folder).get("weight_map", {})
        files = sorted({*files, *(place / str(name) for name in shards.values())})
    if not files:
        raise FluxGuardError(f"{folder.name}/{place.name} holds no weights.", _AGAIN)
    for file in files:
        if file.suffix == ".safetensors":
            contents_of(file)
        elif found := stand_in(file):
            raise ModelFileError(f"{file} is {found}.", _AGAIN)


def text_pipeline(folder: Path, dtype: torch.dtype, device: str) -> DiffusersModel:
    """FLUX's CLIP and T5 alone, proved on two sentences."""
    check_folder(folder, (*_TEXT, *_TOKENIZERS))
    pipeline = open_pipeline(folder, transformer=None, vae=None, torch_dtype=dtype).to(device)
    require_words_told_apart(pipeline, folder.name)
    return pipeline


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
