"""Where the record of an inversion rests in the host: its memory locks, within its budget."""

from __future__ import annotations

import comfy.model_management as memory
from torch import Tensor

from ...fluxguard_core.flow.pinned import Pinning
from ...fluxguard_core.flow.storage import Format, Place, Storage
from .notices import warn


def record_storage(place: Place, form: Format) -> tuple[Storage, Storage]:
    """How velocities and attention values are kept.

    The host's switches decide: where it pins nothing, or copies nothing while it computes, ordinary memory
    serves.
    """
    if place == "pinned" and not _locks():
        place = "cpu"
    told: list[str] = []

    def tell_once(text: str) -> None:
        if text not in told:
            told.append(text)
            warn(text)

    pinning = Pinning(_pin, memory.unpin_memory, tell_once)
    return Storage(place, "computed", pinning), Storage(place, form, pinning)


def _locks() -> bool:
    device = memory.get_torch_device()
    return memory.MAX_PINNED_MEMORY > 0 and memory.device_supports_non_blocking(device)


def _pin(tensor: Tensor) -> bool:
    # Weights that wait in locked memory are sent in every evaluation, the record in few: it takes what is left.
    if memory.TOTAL_PINNED_MEMORY + tensor.nbytes > memory.MAX_PINNED_MEMORY:
        return False
    return bool(memory.pin_memory(tensor))
