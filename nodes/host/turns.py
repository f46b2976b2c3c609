"""MODEL and the refinement on one card, by turns: each has all the memory that the other does not need just then."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import comfy.model_management as memory
import comfy.sampler_helpers
import torch
from comfy.patcher_extension import WrappersMP
from torch import nn

from ...fluxguard_core.errors import FluxGuardError
from ...fluxguard_core.protect.engine import Descent
from ...fluxguard_core.protect.refiner import Branches, Refined
from ...fluxguard_core.protect.run import Refine
from .field import KEY
from .flux import Model
from .networks import load_together, managed
from .notices import warn

Result = TypeVar("Result")


class OutOfMemory(FluxGuardError):
    """The refinement does not fit, although all else was taken off the card."""


_SMALLER = "Take fewer random views, fewer or smaller recognisers, the fast preset with a tiny VAE, or a smaller picture."


def with_room(
    networks: Sequence[nn.Module],
    working_bytes: Callable[[], int],
    work: Callable[[], Result],
    smaller: str,
) -> Result:
    """Do a work with its networks on the card and room to work in.

    Where memory runs out, everything else is taken off the card and it is done once more from the beginning.

    Args:
        working_bytes: what it works with beside the networks, at the moment of asking.
        smaller: what to choose where it does not fit even so.

    Raises:
        OutOfMemory: both times memory ran out.
    """
    for clear in (lambda: None, lambda: _clear(networks)):
        # Left before the next try, or the error would hold on to the tensors of the last one.
        try:
            clear()
            load_together(networks, working_bytes())
            return work()
        except BaseException as error:
            memory.raise_non_oom(error)
    raise OutOfMemory(
        "The protection ran out of memory twice, although everything else had been taken off the card.",
        smaller,
    )


def _clear(networks: Sequence[nn.Module]) -> None:
    """Take everything else off the card."""
    gc.collect()
    ours = [managed(network) for network in networks]
    keep = [held for held in memory.current_loaded_models if held.model in ours]
    for device in dict.fromkeys(handle.load_device for handle in ours):
        memory.free_memory(1e30, device, keep)
    memory.soft_empty_cache(True)


@dataclass(eq=False)
class Turns:
    """Who may use the card: MODEL between the refinements, these networks during them.

    Args:
        networks: what a refinement runs.
        working_bytes: what it works with beside them, at the moment of asking.
    """

    networks: Sequence[nn.Module]
    working_bytes: Callable[[], int]
    failure: OutOfMemory | None = field(default=None, init=False)
    _bring_model: Callable[[], None] | None = field(default=None, init=False)

    def with_model(self, model: Model) -> Model:
        """A clone of MODEL that comes back after each refinement."""
        patched = model.clone()

        def prepare(
            executor: Callable[..., Any],
            sampled: Model,
            shape: Any,
            conds: Any,
            *args: Any,
            **options: Any,
        ) -> Any:
            prepared = executor(sampled, shape, conds, *args, **options)

            def bring() -> None:
                most, least = comfy.sampler_helpers.estimate_memory(sampled, shape, conds)
                memory.load_models_gpu(
                    [sampled, *prepared[2]], memory_required=most, minimum_memory_required=least
                )

            self._bring_model = bring
            return prepared

        patched.add_wrapper_with_key(WrappersMP.PREPARE_SAMPLING, KEY, prepare)
        return patched

    def refining(self, refine: Refine) -> Refine:
        """The refiner, with room to work in.

        Where it does not fit even with the card to itself, an edit that is under way goes on without it, and
        ``failure`` says so; without an edit it raises ``OutOfMemory``.
        """

        def refined(branches: Branches) -> Refined:
            if self.failure is not None:
                return _untouched(branches)
            try:
                return with_room(
                    self.networks, self.working_bytes, lambda: refine(branches), _SMALLER
                )
            except OutOfMemory as error:
                if self._bring_model is None:
                    raise
                self.failure = error
                warn(str(error))
                return _untouched(branches)
            finally:
                if branches.sigma > 0:  # there is more to generate
                    self._give_back()

        return refined

    def _give_back(self) -> None:
        """Let the host have what PyTorch still holds, and load MODEL's weights that had to make room."""
        memory.soft_empty_cache()
        if self._bring_model is not None:
            self._bring_model()


def _untouched(branches: Branches) -> Refined:
    latent = branches.adversarial
    return Refined(latent, Descent(torch.zeros_like(latent), ()))
