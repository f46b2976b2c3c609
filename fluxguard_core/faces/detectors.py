"""Ways to find faces: kornia's YuNet, insightface, a box typed by hand, MediaPipe's mesh.

Every detector becomes a `FaceFinder`, [3,H,W] -> faces. Nothing is downloaded here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from ..errors import FluxGuardError
from ..weights.kinds import stand_in
from ..weights.loading import load_tensors
from .crops import box_of
from .face import Face, FaceFinder
from .scales import Scaled

# Five points in a tight face box (0..1 of its width and height): eyes, nose, mouth corners, as the
# mean of frontal faces; only for boxes typed by hand, where nothing better is known.
_POINTS_IN_BOX = ((0.30, 0.38), (0.70, 0.38), (0.50, 0.58), (0.34, 0.77), (0.66, 0.77))
_MESH_EYES = ((33, 133), (362, 263))
_MESH_NOSE, _MESH_MOUTH = 1, (61, 291)


def face_in_box(box: tuple[float, float, float, float]) -> Face:
    """A face from its box (x0, y0, x1, y1) in pixels, with points where a frontal face has them."""
    x0, y0, x1, y1 = box
    if x1 - x0 < 4 or y1 - y0 < 4:
        raise FluxGuardError(
            f"The box {box} is empty or too small; expected left, top, right, bottom in pixels "
            "with right > left and bottom > top."
        )
    points = torch.tensor(_POINTS_IN_BOX) * torch.tensor([x1 - x0, y1 - y0])
    return Face((x0, y0, x1, y1), points + torch.tensor([x0, y0]), 1.0)


@dataclass(frozen=True, eq=False)
class TypedBoxes:
    """A finder that answers with typed faces for every picture, though they were meant for one."""

    faces: tuple[Face, ...]
    world: ClassVar[None] = None  # it looks at no picture

    def __call__(self, image: Tensor) -> list[Face]:
        height, width = image.shape[-2:]
        for x0, y0, x1, y1 in (face.box for face in self.faces):
            if x0 >= width or y0 >= height or x1 <= 0 or y1 <= 0:
                raise FluxGuardError(
                    f"The box {(x0, y0, x1, y1)} lies outside the picture of {width} x {height} pixels."
                )
        return list(self.faces)


def typed_box(*boxes: tuple[float, float, float, float]) -> TypedBoxes:
    """A finder that answers with these boxes for every picture; FluxGuardError if one lies outside."""
    return TypedBoxes(tuple(face_in_box(box) for box in boxes))


def five_points(mesh: Tensor) -> Tensor:
    """The five alignment points [...,5,2] of MediaPipe's face mesh [...,468 or 478, 2 or 3].

    Eyes as the middle of their corners (33/133 is viewer-left, 362/263 viewer-right), nose tip 1,
    mouth corners 61 and 291. Units stay those of the mesh.
    """
    if mesh.shape[-2] not in (468, 478) or mesh.shape[-1] not in (2, 3):
        raise FluxGuardError(
            f"A face mesh has 468 or 478 points of 2 or 3 coordinates, got {list(mesh.shape)}."
        )
    flat = mesh[..., :2]
    eyes = [(flat[..., a, :] + flat[..., b, :]) / 2 for a, b in _MESH_EYES]
    rest = [flat[..., index, :] for index in (_MESH_NOSE, *_MESH_MOUTH)]
    return torch.stack([*eyes, *rest], -2)


def face_from_points(landmarks: Tensor, score: float = 1.0) -> Face:
    """A face whose box is drawn around its five points [5,2], as wide as detectors draw it."""
    left, top, right, bottom = box_of(landmarks[None].float())[0].tolist()
    return Face((left, top, right, bottom), landmarks, score)


def _kornia_parts() -> tuple[Any, Any, Any]:
    """kornia's FaceDetector, YuNet and nms, wherever this version keeps them."""
    try:
        from kornia.contrib import face_detection
    except ImportError as error:
        raise FluxGuardError(
            "YuNet needs kornia 0.7.1 or later, which is not installed.",
            "Run ‹install kornia›, or use another detector.",
        ) from error
    # Every version since 0.7.1 has YuNet in this module, and nms under one of two names.
    parts: Any = face_detection
    nms = parts.nms_kornia if hasattr(parts, "nms_kornia") else parts.nms
    return parts.FaceDetector, parts.YuNet, nms


def yunet(weights: str | Path, *, score: float = 0.6) -> FaceFinder:
    """kornia's YuNet with a local weight file (yunet_final.pth, MIT).

    Raises FluxGuardError when kornia is absent or the file is not YuNet's.
    """
    FaceDetector, YuNet, nms = _kornia_parts()

    # Its constructor would download the weights, so only the base class's runs.
    detector = FaceDetector.__new__(FaceDetector)
    nn.Module.__init__(detector)
    detector.top_k, detector.keep_top_k = 5000, 750
    detector.confidence_threshold, detector.nms_threshold = score, 0.3
    detector.min_sizes = [[10, 16, 24], [32, 48], [64, 96], [128, 192, 256]]
    detector.steps, detector.variance, detector.clip = [8, 16, 32, 64], [0.1, 0.2], False
    detector.config = {
        name: getattr(detector, name) for name in ("min_sizes", "steps", "variance", "clip")
    }
    detector.model = YuNet("test", pretrained=False)
    detector.nms = nms
    state, _ = load_tensors(weights)
    try:
        detector.model.load_state_dict(state)
    except RuntimeError as error:
        raise FluxGuardError(
            f"{weights} is not YuNet's weight file (expected kornia's yunet_final.pth).",
            "Download it again or choose another detector.",
        ) from error
    detector.eval().requires_grad_(False)
    # Its anchors are faces of 10 to 300 pixels.
    return Scaled(_yunet_finder(detector))


def _yunet_finder(detector: Any) -> FaceFinder:
    # YuNet reads BGR in 0..255; kornia flips RGB itself from 0.9 on, older versions do not.
    probe = torch.tensor([3.0, 2.0, 1.0]).view(1, 3, 1, 1)
    flips = float(detector.preprocess(probe).flatten()[0]) == 1.0

    def find(image: Tensor) -> list[Face]:
        picture = image[None].detach().float() * 255.0
        with torch.no_grad():
            rows = detector(picture if flips else picture.flip(1))[0].cpu()
        rows = rows[rows[:, 14].argsort(descending=True)]
        return [
            Face((row[0].item(), row[1].item(), row[2].item(), row[3].item()), points, score)
            for row, points, score in zip(
                rows, rows[:, 4:14].reshape(-1, 5, 2), rows[:, 14].tolist(), strict=True
            )
        ]

    return find


def _check_pack(pack: Path) -> None:
    """FluxGuardError where a pack's folder holds no models, or pages and pointers in their place."""
    files = sorted(pack.glob("*.onnx"))
    if not files:
        inner = next((p.parent for p in sorted(pack.glob("*/*.onnx"))), None)
        raise FluxGuardError(
            f"{pack} holds no .onnx files; expected the folder of an insightface pack such as "
            "~/.insightface/models/buffalo_l.",
            f"The pack lies one folder deeper: {inner}." if inner else "Download the pack first.",
        )
    for file in files:
        found = "empty" if file.stat().st_size == 0 else stand_in(file)
        if found:
            raise FluxGuardError(f"{file} is {found}.", "Download the pack again, completely.")


def insightface_detector(folder: str | Path, *, score: float = 0.5) -> FaceFinder:
    """insightface's detector (version 1.0 or later) from a folder of its model pack.

    The packs are for non-commercial research. Raises FluxGuardError when the package or the
    folder is missing; a pack is never downloaded.
    """
    try:
        import insightface
        from insightface.app import FaceAnalysis
    except ImportError as error:
        raise FluxGuardError(
            "insightface is not installed.",
            'Run ‹install "insightface>=1.0"›, or use another detector.',
        ) from error
    if int(insightface.__version__.split(".")[0]) < 1:
        raise FluxGuardError(
            f"insightface {insightface.__version__} is too old.",
            'Run ‹install "insightface>=1.0"›.',
        )
    pack = Path(folder).expanduser()
    _check_pack(pack)
    try:
        analysis = FaceAnalysis(
            name=str(pack), root=str(pack.parent.parent), allowed_modules=["detection"]
        )
        analysis.prepare(ctx_id=-1, det_thresh=score)
    except Exception as error:  # insightface and onnxruntime raise whatever a file leads them to
        reason = str(error).strip().splitlines() or ["it holds no detector, as det_10g.onnx is"]
        raise FluxGuardError(
            f"{pack} could not be opened as an insightface pack: {reason[0][:200].rstrip('.')}.",
            "Download the pack again, completely; one with a detector is buffalo_l.",
        ) from error

    def find(image: Tensor) -> list[Face]:
        array = (image.detach().float().clamp(0, 1) * 255).round().byte()
        found = analysis.get(array.flip(0).permute(1, 2, 0).contiguous().cpu().numpy())
        faces = [
            Face(
                (float(f.bbox[0]), float(f.bbox[1]), float(f.bbox[2]), float(f.bbox[3])),
                torch.from_numpy(f.kps).float(),
                float(f.det_score),
            )
            for f in found
        ]
        return sorted(faces, key=lambda face: -face.score)

    return Scaled(find)
