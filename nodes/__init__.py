"""The nodes of the pack, stage by stage."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .attributes import (
    AttributePrivacy,
    AttributeWordsNode,
    LoadAttributeEditor,
    MiniAttributeEditor,
)
from .cloaks import ApplyCloak, LoadCloak, TrainCloak
from .concepts import ConceptAttention
from .editing import AttentionVInjection, VelocityFusionNode
from .existing import ProtectLatent
from .face_picker import FacePicker
from .folders import register_folders
from .inversion import RFInversion
from .masking import TextToMask
from .miniature import LoadMiniTextEncoder, MiniFaceFinder, MiniPortrait, MiniRecognisers
from .options import InversionOptionsNode, ProtectionOptionsNode
from .people import FREnsembleLoader, IdentityNode
from .protection import LatentRefiner
from .report import PrivacyReport
from .results import KeepPhotoPixels
from .sampling import TrajectoryStart
from .shield_tester import ShieldTesterNode
from .shields import ShieldAgainstCloning, ShieldAgainstEdits, ShieldAgainstTraining
from .trajectory_files import LoadTrajectory, SaveTrajectory

NODES: tuple[type[io.ComfyNode], ...] = (
    RFInversion,
    InversionOptionsNode,
    AttentionVInjection,
    VelocityFusionNode,
    TrajectoryStart,
    SaveTrajectory,
    LoadTrajectory,
    FacePicker,
    ConceptAttention,
    TextToMask,
    FREnsembleLoader,
    IdentityNode,
    LatentRefiner,
    ProtectLatent,
    ProtectionOptionsNode,
    KeepPhotoPixels,
    PrivacyReport,
    ShieldAgainstEdits,
    ShieldAgainstTraining,
    ShieldAgainstCloning,
    ShieldTesterNode,
    LoadAttributeEditor,
    AttributePrivacy,
    AttributeWordsNode,
    TrainCloak,
    LoadCloak,
    ApplyCloak,
    LoadMiniTextEncoder,
    MiniPortrait,
    MiniFaceFinder,
    MiniRecognisers,
    MiniAttributeEditor,
)


class FluxGuardExtension(ComfyExtension):
    """What the host asks the pack for."""

    async def on_load(self) -> None:
        register_folders()

    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return list(NODES)
