"""The one place that touches ComfyUI's inside; the nodes know only the names below.

Only clones are ever changed, and only through public hooks: patches on attention, wrappers and functions
after guidance.
"""

from __future__ import annotations

from .decoders import PictureDecoder, on_its_device, picture_decoder
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
from .turns import OutOfMemory, Turns

__all__ = [
    "HostField",
    "OutOfMemory",
    "PictureDecoder",
    "Progress",
    "TrajectoryNoise",
    "Turns",
    "activation_bytes",
    "blocked",
    "check_conditioning",
    "edit_patches",
    "flow_sampler",
    "flux_layout",
    "fuse_velocities",
    "inject_values",
    "latent_preview",
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
    "to_latent",
    "to_model_space",
    "vae_world",
    "warn",
    "with_field",
    "with_guidance",
    "working_device",
]
