"""The TAESD layout: padded and narrow networks are one function, and the shipped file is good."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from fluxguard_core.backends import taesd
from fluxguard_core.errors import FluxGuardError
from fluxguard_core.mini.people import HELD_OUT_WORLD, spec_of
from fluxguard_core.mini.renderer import render_batch
from fluxguard_core.mini.world import load_autoencoder

WIDTHS, ENCODER, DECODER = (4, 8, 12, 16), (1, 1, 2, 2), (1, 2, 2, 3)


def _random_narrow() -> taesd.AutoencoderTiny:
    torch.manual_seed(0)
    autoencoder = taesd.narrow_autoencoder(WIDTHS, ENCODER, DECODER)
    with torch.no_grad():
        for p in autoencoder.parameters():
            p += 0.05 * torch.randn_like(p)  # biases too, or their padding would go unseen
    return autoencoder


def _wide(state: dict[str, Tensor]) -> taesd.AutoencoderTiny:
    from diffusers import AutoencoderTiny

    wide = AutoencoderTiny(latent_channels=16)
    wide.load_state_dict(taesd.taesd_to_diffusers(state))
    return wide


def test_padded_narrow_and_reloaded_agree() -> None:
    narrow = _random_narrow()
    state = taesd.padded_state(narrow)
    wide, again = _wide(state), taesd.load_autoencoder_state(state)
    image, latent = torch.rand(2, 3, 32, 48) * 2 - 1, 2 * torch.randn(2, 16, 4, 6)
    for other in (wide, again):
        assert torch.allclose(narrow.encode(image).latents, other.encode(image).latents, atol=1e-5)
        assert torch.allclose(narrow.decode(latent).sample, other.decode(latent).sample, atol=1e-5)
    count = [sum(p.numel() for p in m.parameters()) for m in (narrow, again, wide)]
    assert count[0] == count[1] < count[2] / 10


def test_the_file_has_the_layout_the_host_expects() -> None:
    state = taesd.padded_state(_random_narrow())
    assert taesd.is_taesd(state)
    assert state["taesd_encoder.14.weight"].shape == (16, 64, 3, 3)
    assert state["taesd_decoder.1.weight"].shape == (64, 16, 3, 3)
    assert state["taesd_decoder.19.weight"].shape == (3, 64, 3, 3)
    assert "taesd_encoder.2.bias" not in state and "taesd_decoder.7.bias" not in state
    assert float(state["vae_scale"]) == pytest.approx(0.3611)
    assert float(state["vae_shift"]) == pytest.approx(0.1159)


def test_scale_and_shift_are_carried_over() -> None:
    state = taesd.padded_state(_random_narrow())
    state["vae_scale"], state["vae_shift"] = torch.tensor(0.5), torch.tensor(0.2)
    autoencoder = taesd.load_autoencoder_state(state)
    raw = torch.tensor(0.7)
    host = (raw / 0.5 + 0.2 - 0.1159) * 0.3611
    config = autoencoder.config
    assert float((raw - config.shift_factor) * config.scaling_factor) == pytest.approx(float(host))


def test_a_fully_live_file_stays_wide() -> None:
    from diffusers import AutoencoderTiny

    wide = AutoencoderTiny(latent_channels=16)
    loaded = taesd.load_autoencoder_state(taesd.diffusers_to_taesd(wide.state_dict()))
    convolutions = [m for m in loaded.modules() if isinstance(m, nn.Conv2d)]
    assert {m.out_channels for m in convolutions} == {64, 16, 3}


def test_foreign_and_incomplete_files_are_refused() -> None:
    with pytest.raises(FluxGuardError, match="TAESD-layout"):
        taesd.load_autoencoder_state({"img_in.weight": torch.zeros(1)})
    state = taesd.padded_state(_random_narrow())
    del state["taesd_decoder.3.conv.0.weight"]
    with pytest.raises(FluxGuardError, match="Not a complete"):
        taesd.load_autoencoder_state(state)


def test_the_shipped_autoencoder_reconstructs_people_it_never_saw() -> None:
    images, _, _ = render_batch([spec_of(HELD_OUT_WORLD, person, 0) for person in range(8)])
    autoencoder = load_autoencoder()
    with torch.no_grad():
        latents = autoencoder.encode(images * 2 - 1).latents
        output = (autoencoder.decode(latents).sample / 2 + 0.5).clamp(0, 1)
    psnr = -10 * torch.log10(((output - images) ** 2).mean((1, 2, 3)))
    assert psnr.mean() > 29.0
    assert 0.6 < latents.std() < 1.4 and latents.mean().abs() < 0.2
