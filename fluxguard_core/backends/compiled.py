"""Compiled transformers: torch.compile does not watch hooks, so one that comes later would be left out without a word."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

from ..errors import FluxGuardError


def evaluated(network: Any, **given: Any) -> Any:
    """One evaluation of a network, as it was written while hooks listen to it, compiled otherwise.

    Raises:
        FluxGuardError: hooks listen, the network is compiled, and torch is older than 2.6, which cannot set that aside.
    """
    if not (_is_compiled(network) and _is_heard(network)):
        return network(**given)
    if not hasattr(torch.compiler, "set_stance"):
        raise FluxGuardError(
            f"The transformer is compiled, and torch {torch.__version__} would leave out what is changed in its "
            "attention.",
            "Give the transformer as it is, not compiled, or use torch 2.6 or newer.",
        )
    with uncompiled():
        return network(**given)


@contextmanager
def uncompiled() -> Iterator[None]:
    """Within, compiled networks run as they were written, and nothing is compiled anew; what was compiled is kept.

    Where torch is older than 2.6, or nothing was ever compiled, this does nothing.
    """
    stance = getattr(torch.compiler, "set_stance", None)
    if stance is None or "torch._dynamo" not in sys.modules:
        yield
        return
    with stance("force_eager"):
        yield


def _is_compiled(network: Any) -> bool:
    """By ``torch.compile(network)``, by ``network.compile()``, or in parts."""
    return hasattr(network, "_orig_mod") or any(
        part._compiled_call_impl is not None for part in network.modules()
    )


def _is_heard(network: Any) -> bool:
    """Whether a hook listens anywhere."""
    return any(part._forward_hooks or part._forward_pre_hooks for part in network.modules())
