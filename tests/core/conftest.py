"""Shared set-up: one thread, so that figures repeat and parallel jobs do not fight."""

from __future__ import annotations

import torch

torch.set_num_threads(1)
