"""Measuring a protection: similarity, quality, sharing transforms, statistics, reports."""

from __future__ import annotations

from .baselines import at_equal_ssim, blurred, noisy
from .chart import chart
from .html import render_html, write_html
from .likeness import Likeness, likeness, likeness_of_faces
from .quality import Quality, eight_bit, masked_psnr, psnr, quality, ssim
from .report import Pictures, Report
from .similarity import (
    Recognition,
    Robustness,
    Shot,
    linkability,
    measure,
    recognise,
    second_shot,
    share,
)
from .statistics import (
    Interval,
    Paired,
    bootstrap_mean,
    clustered_wilson,
    paired,
    paired_shares,
    wilson,
)
from .summary import Comparison, Summary, compare, summarise
from .transforms import SHARING, Transform, autoencoder, blur, jpeg, noise, rescale
from .verdict import HONESTY, Verdict, judge

__all__ = [
    "HONESTY",
    "SHARING",
    "Comparison",
    "Interval",
    "Likeness",
    "Paired",
    "Pictures",
    "Quality",
    "Recognition",
    "Report",
    "Robustness",
    "Shot",
    "Summary",
    "Transform",
    "Verdict",
    "at_equal_ssim",
    "autoencoder",
    "blur",
    "blurred",
    "bootstrap_mean",
    "chart",
    "clustered_wilson",
    "compare",
    "eight_bit",
    "jpeg",
    "judge",
    "likeness",
    "likeness_of_faces",
    "linkability",
    "masked_psnr",
    "measure",
    "noise",
    "noisy",
    "paired",
    "paired_shares",
    "psnr",
    "quality",
    "recognise",
    "render_html",
    "rescale",
    "second_shot",
    "share",
    "ssim",
    "summarise",
    "wilson",
    "write_html",
]
