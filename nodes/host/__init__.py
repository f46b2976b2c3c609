"""The one place that touches ComfyUI's inside; the nodes know only the names below.

Only clones are ever changed, and only through public hooks: patches on attention, wrappers and functions
after guidance.
"""

from __future__ import annotations

from .backward import (
    INTERRUPTS,
    DifferentiableField,
    check_way_back,
    differentiable_field,
    exact_gradients,
    listener,
    reference_listener,
    trainable_layers,
)
from .concepts import concept_attention
from .decoders import CELLS, PictureDecoder, on_its_device, picture_decoder
from .estimate import activation_bytes
from .field import HostField, with_field
from .flux import (
    check_conditioning,
    flux_layout,
    picture_latent,
    placed,
    to_latent,
    to_model_space,
    with_guidance,
)
from .guards import edit_patches
from .known import model_world, vae_world
from .networks import load_together, managed, working_device
from .notices import blocked, notice, warn
from .patches import fuse_velocities, inject_values
from .progress import Progress, latent_preview, ordinary_tensors, picture_preview
from .record import record_storage
from .sampling import TrajectoryNoise, flow_sampler
from .turns import OutOfMemory, Turns, with_room
from .vectors import text_vectors

__all__ = [
    "CELLS",
    "INTERRUPTS",
    "DifferentiableField",
    "HostField",
    "OutOfMemory",
    "PictureDecoder",
    "Progress",
    "TrajectoryNoise",
    "Turns",
    "activation_bytes",
    "blocked",
    "check_conditioning",
    "check_way_back",
    "concept_attention",
    "differentiable_field",
    "edit_patches",
    "exact_gradients",
    "flow_sampler",
    "flux_layout",
    "fuse_velocities",
    "inject_values",
    "latent_preview",
    "listener",
    "load_together",
    "managed",
    "model_world",
    "notice",
    "on_its_device",
    "ordinary_tensors",
    "picture_decoder",
    "picture_latent",
    "picture_preview",
    "placed",
    "record_storage",
    "reference_listener",
    "text_vectors",
    "to_latent",
    "to_model_space",
    "trainable_layers",
    "vae_world",
    "warn",
    "with_field",
    "with_guidance",
    "with_room",
    "working_device",
]
