"""From one training to the next, and to the package."""

from __future__ import annotations

from pathlib import Path

from fluxguard_core.mini.world import Part, weights_folder, weights_path

from .training import TrainPlan


def earlier(part: Part, plan: TrainPlan) -> Path:
    """The file of a part to build on: the one in plan.out where there is one, else the packaged one."""
    own = plan.out / weights_path(part).name
    path = own if own.is_file() else weights_path(part)
    print(f"Builds on {path}", flush=True)
    return path


def hand_over(path: Path, folder: str) -> None:
    """Say where a trained file lies and how it becomes part of the package.

    Args:
        folder: of fluxguard_core/mini/weights, e.g. "vae".
    """
    target = f"fluxguard_core/mini/{weights_folder().name}/{folder}"
    card = path.with_suffix(".md")
    copied = "it and its model card" if card.is_file() else "it"
    described = "" if card.is_file() else ", bring the model card there up to date"
    print(
        f"Written {path}. To ship it: copy {copied} to {target}{described}, then run "
        "python -m training.mini.update_manifest",
        flush=True,
    )
