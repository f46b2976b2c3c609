"""Measuring a protection: similarity, quality, sharing transforms, statistics, reports."""

from __future__ import annotations
