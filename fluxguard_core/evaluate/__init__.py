"""Measuring a protection: similarity, quality, sharing transforms, statistics, reports."""

from __future__ import annotations

from .chart import chart
from .html import render_html, write_html
from .quality import Quality, eight_bit, masked_psnr, psnr, quality, ssim
from .report import Pictures, Report
from .similarity import Recognition, Robustness, Shot, linkability, measure, recognise, share
from .statistics import Interval, Paired, bootstrap_mean, paired, paired_shares, wilson
from .transforms import SHARING, Transform, autoencoder, blur, jpeg, noise, rescale
from .verdict import HONESTY, Verdict, judge

__all__ = [
    "HONESTY",
    "SHARING",
    "Interval",
    "Paired",
    "Pictures",
    "Quality",
    "Recognition",
    "Report",
    "Robustness",
    "Shot",
    "Transform",
    "Verdict",
    "autoencoder",
    "blur",
    "bootstrap_mean",
    "chart",
    "eight_bit",
    "jpeg",
    "judge",
    "linkability",
    "masked_psnr",
    "measure",
    "noise",
    "paired",
    "paired_shares",
    "psnr",
    "quality",
    "recognise",
    "render_html",
    "rescale",
    "share",
    "ssim",
    "wilson",
    "write_html",
]
