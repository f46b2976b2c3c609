"""Which models the command line works with: the miniature, a diffusers folder, or single files."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import torch
from torch import Tensor

from ..backends.flux import FluxStack, decode_latent, encode_image
from ..backends.flux_files import from_files, load_vae, text_encoders
from ..backends.flux_folder import from_folder
from ..backends.flux_lora import add_lora
from ..backends.geometry import geometry_of
from ..errors import FluxGuardError
from ..faces.face import Face, FaceFinder
from ..flow import Storage
from ..pipelines.models import Models
from ..protect.perceptual import (
    PerceptualDistance,
    feature_distance,
    lpips_distance,
    vgg19_relu3_4,
)
from ..protect.photo import Autoencoder
from ..recognition.encoder import Colour, FaceEncoder
from ..recognition.ensemble import Ensemble
from ..recognition.loading import load_encoder
from ..regions import FaceParser, bisenet_parser
from ..weights import Entry, load_manifest, require
from ..weights.kinds import stand_in
from ..weights.loading import check_file
from ..weights.where import find
from ..worlds import known_by, knows
from .finding import add_detector, parse_detector

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def add_arguments(parser: Any) -> None:
    """Arguments that choose the models, the recognisers and the detector."""
    add_flux(parser)
    parser.add_argument(
        "--autoencoder",
        metavar="FILE",
        help="without words: vary this autoencoder's latent, too, not the pixels alone",
    )
    faces = parser.add_argument_group("recognisers and detector")
    add_recognisers(faces)
    add_detector(faces, "yunet; the miniature's own")
    faces.add_argument(
        "--vgg", metavar="FILE", help="torchvision's vgg19 for the perceptual distance"
    )
    faces.add_argument(
        "--lpips", metavar="FILE", help="torchvision's vgg16 or alexnet for LPIPS instead"
    )


def add_flux(parser: Any) -> None:
    """Arguments that choose a FLUX."""
    group = parser.add_argument_group("models (default: the built-in miniature)")
    group.add_argument("--model", metavar="DIR", help="a diffusers FLUX.1 folder")
    group.add_argument("--transformer", metavar="FILE", help="FLUX.1 in Black Forest Labs names")
    group.add_argument(
        "--vae", metavar="FILE", help="its autoencoder (ae.safetensors, TAESD layout)"
    )
    group.add_argument("--text-encoders", metavar="DIR", help="diffusers folder with CLIP and T5")
    group.add_argument("--tiny-vae", metavar="FILE", help="tiny autoencoder for --preset fast")
    group.add_argument(
        "--lora", metavar="FILE[:WEIGHT]", action="append", default=[], help="may be repeated"
    )
    group.add_argument("--device", help="cuda, mps or cpu (default: what there is)")
    group.add_argument(
        "--dtype", choices=DTYPES, help="of the model (default: bfloat16, cpu float32)"
    )
    group.add_argument(
        "--offload",
        action="store_true",
        help="keep only the working part on the device; the transformer (23.8 GB for FLUX.1 in bfloat16) then goes "
        "and comes back for each attacked interval",
    )
    group.add_argument(
        "--cache-format",
        choices=("computed", "bf16", "fp8"),
        default="computed",
        help="number format of the cached attention values",
    )


def add_recognisers(parser: Any) -> None:
    """Arguments that say which recognisers are attacked and which are held out."""
    parser.add_argument(
        "--recogniser",
        metavar="FILE|ID[:COLOUR]",
        action="append",
        default=[],
        help="attacked: a file or an id of `models list`, with :rgb|bgr|both for another channel order; may be repeated",
    )
    parser.add_argument(
        "--hold-out",
        metavar="FILE|ID[:COLOUR]|NAME",
        action="append",
        default=[],
        help="judges only: a file, an id, or the name of one of the recognisers; may be repeated",
    )


_FILES = (
    *("model", "transformer", "vae", "text_encoders", "tiny_vae", "autoencoder"),
    *("vgg", "lpips", "points", "mask"),
)


def is_miniature(args: argparse.Namespace) -> bool:
    """True where no other FLUX was asked for."""
    return args.model is None and args.transformer is None


def is_unedited(args: argparse.Namespace) -> bool:
    """True where neither words nor a FLUX are given: photos are protected as they are."""
    return args.prompt is None and is_miniature(args)


def named_files(args: argparse.Namespace) -> list[Path]:
    """The files and folders that the arguments name; those of the manifest and held-out names aside."""
    given = [getattr(args, name, None) for name in _FILES]
    given += [_lora(text)[0] for text in getattr(args, "lora", ())]
    recognisers = [_colour(text)[0] for text in getattr(args, "recogniser", ())]
    given += [text for text in recognisers if Path(text).is_file() or _listed(text) is None]
    held_out = (_colour(text)[0] for text in getattr(args, "hold_out", ()))
    given += [text for text in held_out if Path(text).is_file()]
    kind, _, place = (getattr(args, "detector", None) or "").partition(":")
    given += [place] if kind in ("yunet", "insightface") and place else []
    return [Path(path) for path in given if path]


def check_weights(args: argparse.Namespace) -> None:
    """FluxGuardError where a named file cannot be a model, by its first bytes: a page, a pointer, empty, unfinished.

    What it is a model of is told when it is loaded.
    """
    no_weights = {Path(path) for path in (args.mask, args.points) if path}
    single = {_lora(text)[0] for text in args.lora} | {_colour(text)[0] for text in args.recogniser}
    for path in named_files(args):
        if path in no_weights or (path.is_dir() and str(path) not in single):
            continue
        check_file(path, None)
        what = stand_in(path)
        if what is not None:
            raise FluxGuardError(f"{path} is {what}.", "Fetch or copy it again, completely.")


def check_recognisers(args: argparse.Namespace) -> None:
    """Load the recognisers and let them go: an unknown one, or one without a threshold, is told by a dry run, too."""
    if args.recogniser and is_unedited(args):
        recognisers(args.recogniser, args.hold_out)
    elif args.recogniser or not is_miniature(args):
        _ensemble(args)
    elif args.hold_out:
        from ..mini.faces import load_ensemble

        load_ensemble(held_out=args.hold_out)


def load_models(args: argparse.Namespace) -> Models:
    """Load what the arguments ask for."""
    device = args.device or best_device()
    models = _miniature(args, device) if is_miniature(args) else _full(args, device)
    for text in args.lora:
        path, weight = _lora(text)
        add_lora(models.stack, path, weight)
    return models


def _miniature(args: argparse.Namespace, device: str) -> Models:
    from ..mini.faces import load_ensemble
    from ..mini.models import miniature, use_one_thread

    if args.recogniser:
        ensemble = _ensemble(args, device)
    else:
        ensemble = load_ensemble(held_out=args.hold_out or ["mobileface"])
    use_one_thread()
    models = miniature(ensemble, device)
    named = args.detector or args.points
    return replace(models, find_faces=detector_of(args)) if named else models


def _full(args: argparse.Namespace, device: str) -> Models:
    stack = _stack(args, device)
    return Models(
        name=Path(args.model or args.transformer).name,
        stack=stack,
        ensemble=_ensemble(args, device),
        find_faces=detector_of(args),
        parse_face=None if getattr(args, "mask", None) else face_parser(),
        perceptual=_perceptual(args, device),
        size=512,
        storage=Storage(place="pinned", format=args.cache_format),
    )


def photo_autoencoder(path: str, device: str = "cpu") -> Autoencoder:
    """An autoencoder of any latent, whose latent a photo's protection varies beside the pixels."""
    vae = load_vae(path).to(device)
    return Autoencoder(
        lambda picture: encode_image(vae, picture.to(device)).to(picture),
        lambda latent: decode_latent(vae, latent.to(device)).to(latent),
        cell=geometry_of(vae).pixels,
        world="drawn" if known_by(vae) == "drawn" else "photo",
    )


def face_parser() -> FaceParser | None:
    """BiSeNet where its file is on this machine: it turns a prompt into a mask on photos."""
    entry = load_manifest()["bisenet"]
    path = find(entry)
    return None if path is None else bisenet_parser(path, expected=entry)


def flux_stack(args: argparse.Namespace, device: str) -> FluxStack:
    """The FLUX that the arguments name, with its LoRAs."""
    stack = _stack(args, device)
    for text in args.lora:
        path, weight = _lora(text)
        add_lora(stack, path, weight)
    return stack


def _stack(args: argparse.Namespace, device: str) -> FluxStack:
    dtype = DTYPES[args.dtype or ("float32" if device == "cpu" else "bfloat16")]
    if args.model is not None:
        stack = from_folder(args.model, dtype=dtype, device=device, offload=args.offload)
        if args.tiny_vae:
            stack = replace(stack, tiny_vae=load_vae(args.tiny_vae, dtype).to(device))
        return stack
    if args.vae is None or args.text_encoders is None:
        raise FluxGuardError(
            "A transformer file holds neither the autoencoder nor the text encoders.",
            "Give both with ‹give vae› FILE and ‹give text_encoders› DIR, or a whole diffusers folder with ‹give model›.",
        )
    words = text_encoders(args.text_encoders, dtype=dtype, device=device)
    return from_files(
        args.transformer, args.vae, words, tiny_vae=args.tiny_vae, dtype=dtype, device=device
    )


def _ensemble(args: argparse.Namespace, device: str = "cpu") -> Ensemble:
    if not args.recogniser:
        raise FluxGuardError(
            "A full-size FLUX needs recognisers made for real faces; the built-in ones know only the miniature's "
            "portraits.",
            "Give at least one with ‹give recogniser› FILE (see ‹run models list›).",
        )
    attacked, held_out = recognisers(args.recogniser, args.hold_out, device)
    for encoder in attacked:
        encoder.threshold()  # a missing one is told now, not after minutes of inversion
    return Ensemble(attacked, held_out)


def recognisers(
    given: Sequence[str], hold_out: Sequence[str], device: str = "cpu"
) -> tuple[tuple[FaceEncoder, ...], tuple[FaceEncoder, ...]]:
    """Attacked and held-out recognisers: files, of which those named in ``hold_out`` only judge."""
    names = {text for text in hold_out if text in given or not _is_place(text)}
    files = [text for text in hold_out if text not in names]
    loaded = _distinct([_recogniser(text, device) for text in (*given, *files)])
    mine, judges = loaded[: len(given)], loaded[len(given) :]
    unknown = names - {encoder.name for encoder in mine}
    if unknown:
        raise FluxGuardError(
            f"‹give hold_out› {sorted(unknown)[0]} is neither a file nor one of the recognisers given: "
            f"{', '.join(encoder.name for encoder in mine)}."
        )
    attacked = tuple(encoder for encoder in mine if encoder.name not in names)
    return attacked, (*(encoder for encoder in mine if encoder.name in names), *judges)


def _recogniser(text: str, device: str) -> tuple[Path, FaceEncoder]:
    path, colour = recogniser_file(text)
    encoder = load_encoder(path, colour=colour)
    encoder.network.to(device)
    return path, encoder


def recogniser_file(text: str) -> tuple[Path, Colour | None]:
    """The file that FILE[:COLOUR] or ID[:COLOUR] means, an id being one of the manifest's recognisers."""
    path, colour = _colour(text)
    entry = None if Path(path).is_file() else _listed(path)
    return (Path(path) if entry is None else require(entry)), colour


def _is_place(text: str) -> bool:
    path, _ = _colour(text)
    return Path(path).is_file() or _listed(path) is not None


def _listed(name: str) -> Entry | None:
    """The manifest's recogniser of that id, but the miniature's, which go by their own names."""
    listed = load_manifest().entries
    entries = (entry for entry in listed if entry.id == name and entry.role == "recogniser")
    return next((entry for entry in entries if entry.source != "package"), None)


def _distinct(loaded: list[tuple[Path, FaceEncoder]]) -> list[FaceEncoder]:
    """Encoders of one layout are told apart by their files' names."""
    names = [encoder.name for _, encoder in loaded]
    return [
        replace(encoder, name=f"{encoder.name} ({path.name})")
        if names.count(encoder.name) > 1
        else encoder
        for path, encoder in loaded
    ]


def _colour(text: str) -> tuple[str, Colour | None]:
    """A file and the channel order behind its last colon, if there is one."""
    path, _, last = text.rpartition(":")
    for colour in get_args(Colour):
        if path and last == colour:
            return path, colour
    return text, None


def detector_of(args: argparse.Namespace) -> FaceFinder:
    """The finder that the arguments name; never none."""
    if args.points is not None:
        return _nobody  # the points file says where faces are, photo by photo
    return required_finder(parse_detector(args.detector or "yunet"))


@knows(None)
def _nobody(image: Tensor) -> list[Face]:
    return []


def required_finder(finder: FaceFinder | None) -> FaceFinder:
    """The finder; FluxGuardError where it is to take the whole frame."""
    if finder is None:
        raise FluxGuardError(
            "The protection has to know where the face is in the frame.",
            "Choose another ‹give detector›, or type the face's box.",
        )
    return finder


def _perceptual(args: argparse.Namespace, device: str) -> PerceptualDistance:
    if args.lpips:
        return lpips_distance(args.lpips)
    return feature_distance(vgg19_relu3_4(args.vgg or require(load_manifest()["vgg19"])).to(device))


def _lora(text: str) -> tuple[str, float]:
    path, colon, number = text.rpartition(":")
    if not colon:
        return text, 1.0
    try:
        return path, float(number)
    except ValueError:
        return text, 1.0  # a colon of the path's own, as in C:\lora.safetensors


def best_device() -> str:
    """The fastest device that torch has here."""
    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
