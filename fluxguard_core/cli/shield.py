"""`fluxguard shield edits | training | cloning`: photos in, photos out that models work less well on."""

from __future__ import annotations

from typing import Any

from ..defences.cloning import CloneShield
from ..defences.edits import EDIT_SHIELDS
from ..defences.training import TRAINING_SHIELDS
from . import shield_cloning, shield_edits, shield_training, sources
from .finding import add_detector, add_face

_ENDS = (
    "Each raises the cost of misuse and is no guarantee. Exit code: 0 where every photo was shielded, 1 where some "
    "were not, 2 where nothing could start."
)


def register(subparsers: Any) -> None:
    """Add the `shield` command to the `fluxguard` parser."""
    shield = subparsers.add_parser(
        "shield", help="make photos that models edit, learn from or clone less well"
    )
    kinds = shield.add_subparsers(dest="shield_command", required=True)
    _register_edits(kinds)
    _register_training(kinds)
    _register_cloning(kinds)


def _register_edits(kinds: Any) -> None:
    parser = _command(kinds, "edits", "against edits by prompt (TDAE)", shield_edits.run)
    parser.add_argument(
        "--preset",
        choices=EDIT_SHIELDS,
        default="fast",
        help="fast (default) asks the autoencoder alone; balanced also runs FLUX forwards; strong needs gradients "
        "through FLUX; kontext is for FLUX.1 Kontext",
    )
    parser.add_argument("--steps", type=int, metavar="N", help="of the descent (default: preset's)")
    parser.add_argument(
        "--prompt", default="", help="an edit that somebody may ask for (default: none)"
    )
    parser.add_argument(
        "--even", action="store_true", help="spend the budget evenly, on smooth skin too"
    )
    parser.add_argument(
        "--autoencoder",
        metavar="FILE",
        help="for the preset fast: FLUX's autoencoder, or a tiny one in its place, without any FLUX",
    )
    _add_mask(parser)
    sources.add_flux(parser)
    _add_faces(parser)


def _register_training(kinds: Any) -> None:
    parser = _command(
        kinds, "training", "against a LoRA of the person (DLADiff, layer 1)", shield_training.run
    )
    parser.add_argument(
        "--preset",
        choices=TRAINING_SHIELDS,
        default="light",
        help="light (default) runs FLUX forwards only; full trains two stand-ins and needs gradients through FLUX",
    )
    parser.add_argument("--epochs", type=int, metavar="N", help="rounds (default: 30)")
    parser.add_argument(
        "--prompt", help="what a trainer would call the person (default: a photo of sks person)"
    )
    _add_mask(parser)
    sources.add_flux(parser)
    _add_faces(parser)


def _register_cloning(kinds: Any) -> None:
    parser = _command(
        kinds, "cloning", "against cloning from one photo (DLADiff, layer 2)", shield_cloning.run
    )
    parser.add_argument("--steps", type=int, metavar="N", help="at most (default: 150)")
    parser.add_argument(
        "--limit",
        type=float,
        default=CloneShield.limit,
        help="stop where every attacked recogniser sees less similarity (default: %(default)s)",
    )
    parser.add_argument(
        "--spreads",
        type=float,
        metavar="K",
        help="instead, for calibrated recognisers: K spreads of strangers above their mean",
    )
    sources.add_recognisers(parser)
    _add_faces(parser)
    add_face(parser)
    parser.add_argument("--device", help="cuda, mps or cpu (default: what there is)")


def _command(kinds: Any, name: str, text: str, run: Any) -> Any:
    parser = kinds.add_parser(name, help=text, description=f"Shield photos {text}.", epilog=_ENDS)
    parser.add_argument("photo", metavar="PHOTO", help="a picture, or a folder of them")
    parser.add_argument(
        "-o", "--output", required=True, metavar="OUT.png", help="or a folder, for a folder"
    )
    parser.add_argument(
        "--budget",
        type=int,
        metavar="N",
        help="largest change of a value, of 255 (default: preset's)",
    )
    parser.add_argument("--seed", type=int, default=0, help="of everything that is drawn")
    parser.add_argument(
        "--recursive", action="store_true", help="take the photos of sub-folders, too"
    )
    parser.add_argument("--again", action="store_true", help="redo what is done already")
    parser.add_argument(
        "--dry-run", action="store_true", help="print what would be done and its cost, and stop"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress bars")
    parser.set_defaults(run=run)
    return parser


def _add_mask(parser: Any) -> None:
    parser.add_argument(
        "--mask", metavar="PNG", help="white may change, of the photo's size (default: everything)"
    )


def _add_faces(parser: Any) -> None:
    add_detector(parser, "yunet; the miniature's own on drawn portraits")
