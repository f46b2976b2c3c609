"""From one training to the next, and to the package."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.world import Part, weights_folder, weights_path

from .anatomy import PACKAGED
from .training import TrainPlan


def earlier(part: Part, plan: TrainPlan) -> Path:
    """The file of a part to build on: the one in plan.out where there is one, else the packaged one.

    Raises:
        FluxGuardError: another editor than the packaged one has no such part yet.
    """
    own = plan.out / f"{plan.anatomy.name}-{part}.safetensors"
    if plan.anatomy is not PACKAGED and not own.is_file():
        raise FluxGuardError(f"There is no {own.name} in {plan.out} yet. Train that part first.")
    path = own if own.is_file() else weights_path(part)
    print(f"Builds on {path}", flush=True)
    return path


def write_card(file: Path, lines: Sequence[str], folder: str) -> None:
    """A trained file's model card beside it; tells how both are shipped."""
    text = "\n".join([*lines, ""])
    file.with_suffix(".md").write_text(text, encoding="utf-8")
    print(text)
    hand_over(file, folder)


def hand_over(path: Path, folder: str) -> None:
    """Say where a trained file lies and how it becomes part of the package.

    Args:
        folder: of fluxguard_core/mini/weights, e.g. "vae".
    """
    if not path.name.startswith(PACKAGED.name):
        print(f"Written {path}, which is no part of the package.", flush=True)
        return
    target = f"fluxguard_core/mini/{weights_folder().name}/{folder}"
    card = path.with_suffix(".md")
    copied = "it and its model card" if card.is_file() else "it"
    described = "" if card.is_file() else ", bring the model card there up to date"
    print(
        f"Written {path}. To ship it: copy {copied} to {target}{described}, then run "
        "python -m training.mini.update_manifest",
        flush=True,
    )
