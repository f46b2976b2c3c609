"""What the shields against edits and training ask: the miniature, a FLUX, or an autoencoder alone."""

from __future__ import annotations

import argparse
from dataclasses import replace
from functools import lru_cache

import torch
from torch import Tensor

from ..backends.flux import DiffusersModel
from ..backends.flux_files import load_vae
from ..defences.surrogates import Encode, Surrogate, autoencoder_alone, surrogate
from ..errors import FluxGuardError
from ..worlds import known_by
from .sources import best_device, flux_stack, is_miniature
from .world_gate import check_world


def is_drawn(args: argparse.Namespace) -> bool:
    """Whether the miniature, or its autoencoder alone, is asked: both know drawn portraits only."""
    given = getattr(args, "autoencoder", None)
    return is_miniature(args) if given is None else known_by(_autoencoder(given)) == "drawn"


@lru_cache(maxsize=1)
def _autoencoder(path: str) -> DiffusersModel:
    return load_vae(path, torch.float32)


def load_surrogate(args: argparse.Namespace, prompt: str) -> Surrogate:
    """The model that the arguments name, at a prompt."""
    device = args.device or best_device()
    if getattr(args, "autoencoder", None) is not None:
        vae = _autoencoder(args.autoencoder).to(device)
        return autoencoder_alone(vae, torch.device(device))
    if is_miniature(args):
        from ..mini.models import use_one_thread
        from ..mini.world import load_stack

        use_one_thread()
        return surrogate(load_stack(device), prompt)
    return surrogate(flux_stack(args, device), prompt)


def check_one_model(args: argparse.Namespace, *, needs_model: bool) -> None:
    """FluxGuardError where an autoencoder alone came for a shield that asks the transformer, or both came."""
    if getattr(args, "autoencoder", None) is None:
        return
    if not is_miniature(args):
        raise FluxGuardError(
            "Expected either a FLUX or an autoencoder alone, got both.",
            "Leave ‹give autoencoder› out: the FLUX brings its own.",
        )
    if needs_model:
        raise FluxGuardError(
            f"The preset {args.preset} asks a FLUX transformer, and only an autoencoder was given.",
            "Take the preset fast, or name a FLUX with ‹give model›.",
        )


def check_photo(args: argparse.Namespace, picture: Tensor, name: str) -> None:
    """The miniature never works on a photo; any other autoencoder works on both."""
    if is_drawn(args):
        check_world(picture, name, [], "drawn")


def seeing_grey(model: Surrogate) -> Surrogate:
    """The model as it sees a grey picture, whose channels are stored as their mean."""

    def grey(encode: Encode) -> Encode:
        return lambda picture: encode(picture.mean(1, keepdim=True).expand(-1, 3, -1, -1))

    return replace(model, encode=grey(model.encode))


def as_grey(picture: Tensor) -> Tensor:
    """The mean of the channels [1, 3, H, W], on the grid of 1/255."""
    return (picture.mean(1, keepdim=True).expand(-1, 3, -1, -1) * 255).round() / 255
