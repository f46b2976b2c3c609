"""The nodes of the pack, stage by stage."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .editing import AttentionVInjection, VelocityFusionNode
from .folders import register_folders
from .inversion import RFInversion
from .masking import TextToMask
from .miniature import LoadMiniTextEncoder, MiniPortrait
from .people import FREnsembleLoader, IdentityNode
from .protection import LatentRefiner, ProtectLatent
from .report import PrivacyReport
from .sampling import RFSampler, TrajectoryStart
from .trajectory_files import LoadTrajectory, SaveTrajectory

NODES: tuple[type[io.ComfyNode], ...] = (
    RFInversion,
    AttentionVInjection,
    VelocityFusionNode,
    TrajectoryStart,
    RFSampler,
    SaveTrajectory,
    LoadTrajectory,
    TextToMask,
    FREnsembleLoader,
    IdentityNode,
    LatentRefiner,
    ProtectLatent,
    PrivacyReport,
    LoadMiniTextEncoder,
    MiniPortrait,
)


class FluxGuardExtension(ComfyExtension):
    """What the host asks the pack for."""

    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
