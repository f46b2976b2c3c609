"""FLUX through diffusers: its files and keys, its tiny autoencoders."""

from __future__ import annotations
