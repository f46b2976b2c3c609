"""Public checkpoint layouts: key counts, detection, loading, refusals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.recognition.backbones.inception_resnet import InceptionResnetV1
from fluxguard_core.recognition.backbones.iresnet_arcface import IResNet
from fluxguard_core.recognition.backbones.iresnet_evolve import IRBackbone
from fluxguard_core.recognition.backbones.mobilefacenet import MobileFaceNet
from fluxguard_core.recognition.backbones.vit import FaceViT
from fluxguard_core.recognition.detect_layout import build_network, detect, unwrap
from fluxguard_core.recognition.loading import load_encoder

Build = Callable[[], nn.Module]

# name -> network at its real size, keys in the public file, colour, input size, counters
PUBLIC: dict[str, tuple[Build, int, str, int, int]] = {
    "ir152": (lambda: IRBackbone((3, 8, 36, 3)), 687, "rgb", 112, 106),
    "irse50": (lambda: IRBackbone((3, 4, 14, 3), se=True), 397, "rgb", 112, 54),
    "facenet": (InceptionResnetV1, 716, "rgb", 160, 112),
    "mobile_face": (MobileFaceNet, 333, "rgb", 112, 50),
    "adaface_ir": (lambda: IRBackbone((3, 13, 30, 3), adaface=True), 917, "bgr", 112, 153),
    "iresnet50": (lambda: IResNet((3, 4, 14, 3)), 475, "rgb", 112, 79),
    "iresnet100": (lambda: IResNet((3, 13, 30, 3)), 925, "rgb", 112, 154),
    "vit": (lambda: FaceViT(width=512, depth=24), 282, "rgb", 112, 2),
}
NARROW: dict[str, Build] = {
    "ir": lambda: IRBackbone((1, 2, 1, 1), width=16, dimension=32),
    "ir_se": lambda: IRBackbone((1, 1, 1, 1), se=True, width=16, dimension=32, size=64),
    "inception_resnet": lambda: InceptionResnetV1(width=4, depth=(1, 1, 1), dimension=32),
    "mobilefacenet": lambda: MobileFaceNet(width=8, depth=(1, 2, 1), dimension=32),
    "vit": lambda: FaceViT(width=32, depth=2, patch=16, hidden=64, dimension=24),
}


def public_state(name: str) -> dict[str, Tensor]:
    """The layout of a public file, without memory behind it."""
    with torch.device("meta"):
        state = dict(PUBLIC[name][0]().state_dict())
        if name == "facenet":
            state["logits.weight"], state["logits.bias"] = torch.zeros(8631, 512), torch.zeros(8631)
    return state


def narrow_file(folder: Path, kind: str, seed: int = 0) -> tuple[Path, nn.Module]:
    torch.manual_seed(seed)
    network = NARROW[kind]().eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean, -0.2, 0.2)  # type: ignore[arg-type]
            nn.init.uniform_(module.running_var, 0.5, 2.0)  # type: ignore[arg-type]
    path = folder / "weights.safetensors"
    save_file({k: v.contiguous() for k, v in network.state_dict().items()}, path)
    return path, network


@pytest.mark.parametrize("name", PUBLIC)
def test_public_layouts_are_recognised_by_keys_and_shapes(name: str) -> None:
    state = public_state(name)
    layout = detect(state)
    _, keys, colour, size, counters = PUBLIC[name]
    assert len(state) == keys
    assert sum(key.endswith("num_batches_tracked") for key in state) == counters
    assert (layout.name, layout.colour, layout.size) == (name, colour, size)
    network, _ = build_network(state)
    assert set(network.state_dict()) == {k for k in state if not k.startswith("logits.")}


def test_parameter_counts_of_the_classics() -> None:
    millions = {"ir152": 70.74, "irse50": 43.80, "facenet": 27.91, "mobile_face": 1.20}
    for name, expected in millions.items():
        floats = {k: v for k, v in public_state(name).items() if v.is_floating_point()}
        buffers = ("running_mean", "running_var")
        count = sum(v.numel() for k, v in floats.items() if not k.endswith(buffers))
        assert count / 1e6 == pytest.approx(expected, abs=0.006)


def test_names_of_the_classics() -> None:
    expected = {
        "ir152": ["body.3.shortcut_layer.0.weight", "body.49.res_layer.4.running_var"],
        "irse50": ["body.0.res_layer.5.fc2.weight", "output_layer.4.weight"],
        "facenet": ["repeat_2.9.branch1.2.bn.weight", "mixed_7a.branch2.2.conv.weight"],
        "mobile_face": ["conv_4.model.5.project.conv.weight", "conv_6_dw.bn.weight"],
        "iresnet100": ["layer3.29.bn3.weight", "layer1.0.downsample.1.weight", "features.weight"],
    }
    for name, keys in expected.items():
        assert set(keys) <= set(public_state(name))


def test_published_thresholds_belong_to_the_real_sizes_only() -> None:
    assert detect(public_state("irse50")).thresholds[1].value == 0.241045
    with torch.device("meta"):
        assert detect(NARROW["ir_se"]().state_dict()).thresholds == ()


def test_mobile_face_at_real_size_runs(tmp_path: Path) -> None:
    torch.manual_seed(0)
    path = tmp_path / "any_name.pth"
    state = MobileFaceNet().state_dict()
    torch.save(state, path)
    encoder = load_encoder(path)
    assert encoder.name == "mobile_face" and encoder.threshold() == 0.301611
    image = torch.rand(1, 3, 112, 112, requires_grad=True)
    vector = encoder(image)
    vector[0, 0].backward()
    assert vector.shape == (1, 512) and float(vector.norm()) == pytest.approx(1, abs=1e-5)
    assert image.grad is not None and float(image.grad.abs().sum()) > 0


@pytest.mark.parametrize("kind", NARROW)
def test_files_of_any_width_give_the_same_embedding(kind: str, tmp_path: Path) -> None:
    path, network = narrow_file(tmp_path, kind)
    encoder = load_encoder(path)
    assert encoder.name == kind
    x = torch.rand(2, 3, encoder.size, encoder.size)
    with torch.no_grad():
        expected = nn.functional.normalize(network((x - 0.5) / 0.5))
    torch.testing.assert_close(encoder(x), expected)


def test_encoders_loaded_in_inference_mode_have_gradients(tmp_path: Path) -> None:
    path, _ = narrow_file(tmp_path, "mobilefacenet")
    with torch.inference_mode():
        encoder = load_encoder(path)
    image = torch.rand(1, 3, encoder.size, encoder.size, requires_grad=True)
    encoder(image)[0, 0].backward()
    assert image.grad is not None and float(image.grad.abs().sum()) > 0


def test_adaface_reads_bgr_unless_told_otherwise(tmp_path: Path) -> None:
    torch.manual_seed(0)
    state = IRBackbone((1, 1, 1, 1), adaface=True, width=16, dimension=8).state_dict()
    wrapped = {"state_dict": {f"model.{k}": v for k, v in state.items()}, "epoch": 3}
    wrapped["state_dict"]["head.kernel"] = torch.zeros(8, 10)
    path = tmp_path / "adaface.ckpt"
    torch.save(wrapped, path)
    bgr, rgb = load_encoder(path), load_encoder(path, colour="rgb")
    x = torch.rand(1, 3, 112, 112)
    torch.testing.assert_close(bgr(x), rgb(x.flip(1)))


def test_missing_counters_are_accepted_and_nothing_else(tmp_path: Path) -> None:
    state = dict(NARROW["ir"]().state_dict())
    old = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
    build_network(old)
    del old["output_layer.4.running_var"]
    with pytest.raises(FluxGuardError, match=r"output_layer\.4\.running_var is missing"):
        build_network(old)
    with pytest.raises(FluxGuardError, match="extra is unexpected"):
        build_network({**state, "extra": torch.zeros(1)})
    state["body.1.res_layer.1.weight"] = torch.zeros(7, 16, 3, 3)
    with pytest.raises(FluxGuardError, match=r"\[7, 16, 3, 3\]"):
        build_network(state)
    del state["body.1.res_layer.3.weight"]
    with pytest.raises(FluxGuardError, match="truncated"):
        build_network(state)


def test_wrapper_prefixes_are_removed() -> None:
    state = NARROW["mobilefacenet"]().state_dict()
    head = {"head.kernel": torch.zeros(2, 2), "optimiser.step": torch.zeros(())}
    for prefix in ("module.", "module.model.", "_orig_mod.", "backbone.", "student.net."):
        wrapped = {f"{prefix}{key}": value for key, value in state.items()}
        assert set(unwrap({**wrapped, **head})) == set(state), prefix
    twice = {f"{name}.{k}": v for name in ("student", "teacher") for k, v in state.items()}
    with pytest.raises(FluxGuardError, match=r"student\., teacher\."):
        unwrap(twice)


def test_foreign_files_are_refused(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.safetensors"
    save_file({"decoder.weight": torch.zeros(30, 30)}, foreign)
    with pytest.raises(FluxGuardError, match=r"decoder\.weight"):
        load_encoder(foreign)
    (tmp_path / "page.pth").write_bytes(b"<!DOCTYPE html>" * 200)
    with pytest.raises(FluxGuardError, match="web page"):
        load_encoder(tmp_path / "page.pth")


def test_half_a_file_is_refused(tmp_path: Path) -> None:
    path, _ = narrow_file(tmp_path, "ir")
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(FluxGuardError):
        load_encoder(path)


def test_files_that_would_run_code_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "module.pth"
    torch.save(NARROW["mobilefacenet"](), path)
    with pytest.raises(FluxGuardError):
        load_encoder(path)
