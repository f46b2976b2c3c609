"""`fluxguard mini quality`: every figure of the miniature in one table."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

from ..protect.presets import PRESETS, preset_named
from .method_quality import measure_method, summary
from .models import miniature
from .quality import autoencoder_quality, inversion_quality, sample_quality

TARGETS = {
    "autoencoder PSNR, dB": (30.0, "at least"),
    "autoencoder SSIM": (0.95, "at least"),
    "samples agree with captions": (0.98, "at least"),
    "inversion below autoencoder, dB": (1.0, "at most"),
    "edit hit rate": (0.90, "at least"),
    "edit PSNR outside the mask, dB": (45.0, "at least"),
    "protected PSNR outside, dB": (45.0, "at least"),
    "protected SSIM to the edit": (0.90, "at least"),
    "edits matched by every recogniser before": (0.80, "at least"),
}


def register(kinds: Any) -> None:
    """Add `quality` to the `mini` command."""
    parser = kinds.add_parser("quality", help="measure the miniature on people no network has seen")
    parser.add_argument(
        "--portraits", type=int, default=100, help="for the method, five edits each"
    )
    parser.add_argument("--pictures", type=int, default=100, help="for autoencoder and samples")
    parser.add_argument("--preset", choices=PRESETS, default="default")
    parser.add_argument(
        "--log", type=Path, metavar="FILE", help="rows as they come; resumes from it"
    )
    parser.add_argument("--json", action="store_true")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Handler of `fluxguard mini quality`."""
    models = miniature()
    figures: dict[str, Any] = {
        "autoencoder": autoencoder_quality(models.stack, args.pictures),
        "samples": sample_quality(models.stack, args.pictures),
        "inversion": inversion_quality(models.stack, max(2, args.pictures // 10)),
    }
    rows = measure_method(models, preset_named(args.preset), args.portraits, args.log)
    figures["method"] = summary(rows)
    print(json.dumps(figures) if args.json else _table(figures))
    return 0


def _table(figures: dict[str, Any]) -> str:
    method, inversion = figures["method"], figures["inversion"]
    values = {
        "autoencoder PSNR, dB": [figures["autoencoder"]["psnr"]],
        "autoencoder SSIM": [figures["autoencoder"]["ssim"]],
        "samples agree with captions": [figures["samples"]["all"]],
        "inversion below autoencoder, dB": [
            inversion["autoencoder_psnr"] - inversion["inversion_psnr"]
        ],
        "edit hit rate": method["hit_rate"],
        "edit PSNR outside the mask, dB": method["edit_psnr_outside_near"],
        "protected PSNR outside, dB": method["protected_psnr_outside"],
        "protected SSIM to the edit": method["ssim"],
        "edits matched by every recogniser before": method["matched_before"],
    }
    lines = [f"{'figure':<42}{'measured':>26}   target"]
    for name, measured in values.items():
        target, sense = TARGETS[name]
        lines.append(f"{name:<42}{_interval(measured):>26}   {sense} {target:g}")
    lines.append("")
    lines.append(
        f"below the threshold at FAR 1e-2, of {method['edits']} edits those matched before"
    )
    header = f"{'recogniser':<18}{'role':<14}{'protected':>24}{'noise':>10}{'blur':>10}"
    lines.append(header + f"{'cosine against noise':>28}")
    for name, row in method["recognisers"].items():
        role = "attacked" if row["attacked"] else "took no part"
        shares = f"{row['below_after_noise'][0]:>10.3f}{row['below_after_blur'][0]:>10.3f}"
        lines.append(
            f"{name:<18}{role:<14}{_interval(row['below_after_protection']):>24}{shares}"
            f"{_interval(row['cosine_against']['noise']):>28}"
        )
    return "\n".join(lines)


def _interval(values: list[float]) -> str:
    if len(values) == 1:
        return f"{values[0]:.3f}"
    return f"{values[0]:.3f} [{values[1]:.3f}, {values[2]:.3f}]"
