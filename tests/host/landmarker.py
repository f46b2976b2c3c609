"""Weight files with which real detectors see one given face, wherever they look.

Their last layers are biases alone. So the host's own MediaPipe nodes run, and kornia's YuNet, and what they
give is connected.
"""

from __future__ import annotations

import math
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from fluxguard_core.regions.geometry import (
    _MESH_BROWS,
    _MESH_EYES,
    _MESH_LIPS,
    _MESH_MOUTH,
    _MESH_NOSE,
    _MESH_OVAL,
)

_POINTS = 478
_BOX, _CROP = (
    10.0,
    192.0,
)  # the detector's box in sides of the picture; the mesh network's own pixels
_SCALE = 1.5 * _BOX  # the host draws the mesh's crop so much larger than the box
_PARTS = ("face_oval", "left_eye", "right_eye", "left_eyebrow", "right_eyebrow", "lips")


def mesh_of(labels: Tensor, landmarks: Tensor) -> Tensor:
    """A face mesh [478, 2] on a drawn portrait: outlines from its labels [H, W], corners from its five points."""
    points = landmarks.mean(0).repeat(_POINTS, 1)
    for ring, ids in (
        (_MESH_OVAL, (1, 2, 3, 4, 5, 10, 11, 12, 13)),
        (_MESH_NOSE, (10,)),
        (_MESH_BROWS[0], (2,)),
        (_MESH_BROWS[1], (3,)),
        (_MESH_EYES[0], (4,)),
        (_MESH_EYES[1], (5,)),
        (_MESH_LIPS, (11, 12, 13)),
    ):
        points[list(ring)] = _ellipse(torch.isin(labels, torch.tensor(ids).to(labels)), len(ring))
    points[list(_MESH_MOUTH)] = landmarks[3:].mean(0)
    half = 0.2 * float(landmarks[1, 0] - landmarks[0, 0])
    for corners, eye in (((33, 133), landmarks[0]), ((362, 263), landmarks[1])):
        for corner, side in zip(corners, (-half, half), strict=True):
            points[corner] = eye + torch.tensor([side, 0.0])
    points[1], points[61], points[291] = landmarks[2], landmarks[3], landmarks[4]
    return points


def _ellipse(inside: Tensor, count: int) -> Tensor:
    rows, columns = torch.nonzero(inside).unbind(1)
    low = torch.stack([columns.min(), rows.min()]).float()
    high = torch.stack([columns.max(), rows.max()]).float()
    angle = torch.arange(count) * (2 * math.pi / count)
    circle = torch.stack([angle.cos(), angle.sin()], 1)
    return (low + high) / 2 + circle * (high - low) / 2


def write_landmarker(folder: Path, mesh: Tensor, side: int) -> str:
    """Write the file for a square picture of ``side`` pixels; returns its name."""
    generator = torch.Generator().manual_seed(7)
    box = torch.zeros(16)
    box[2:4] = 128 * _BOX
    depth = torch.rand(_POINTS, 1, generator=generator)
    canonical = torch.cat([_CROP / 2 + (mesh - side / 2) * _CROP / (_SCALE * side), depth], 1)
    tensors = {
        "mesh.head_landmarks.weight": torch.zeros(3 * _POINTS, 8, 3, 3),
        "mesh.head_landmarks.bias": canonical.flatten(),
        "canonical_vertices": torch.rand(_POINTS, 3, generator=generator),
        "procrustes_indices": torch.arange(0, _POINTS, 20, dtype=torch.int32),
        "procrustes_weights": torch.ones(24),
    }
    for size, channels, anchors in ((16, 88, 2), (8, 96, 6)):
        head = f"detector_short.cls_{size}"
        tensors[f"{head}.weight"] = torch.zeros(anchors, channels, 1, 1)
        tensors[f"{head}.bias"] = torch.full((anchors,), 4.0)
        head = f"detector_short.reg_{size}"
        tensors[f"{head}.weight"] = torch.zeros(16 * anchors, channels, 1, 1)
        tensors[f"{head}.bias"] = box.repeat(anchors)
    for part in (*_PARTS, "irises", "nose", "tesselation"):
        tensors[f"topology.{part}"] = torch.tensor([[0, 1]], dtype=torch.int32)
    folder.mkdir(parents=True, exist_ok=True)
    name = f"one-face-{side}.safetensors"
    save_file(tensors, folder / name)
    return name


def write_yunet(folder: Path, landmarks: Tensor) -> None:
    """Write kornia's file for a picture of 128 pixels with five points [5, 2]."""
    from kornia.contrib.face_detection import YuNet

    torch.manual_seed(0)
    state = YuNet("test", pretrained=False).state_dict()
    for name in state:
        if name.startswith("head.") and ".conv2.conv2." in name:
            state[name].zero_()
    # The first of three anchors of a cell of 64 pixels: one box larger than the picture, and the points
    # in tenths of the anchor's 128 pixels from the first cell's middle.
    bias = torch.zeros(3, 17)
    bias[0, 2:4] = 10.0
    bias[0, 4:14] = ((landmarks - 32) / 12.8).flatten()
    bias[0, 14:] = torch.tensor([-9.0, 9.0, 1.0])
    state["head.3.conv2.conv2.bias"] = bias.flatten()
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / "yunet_final.pth")
