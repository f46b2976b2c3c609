"""Run with ComfyUI's Python: MODEL and the refinement by turns, errors for lack of memory, several devices.

Usage: turns_check.py COMFYUI PACK; prints JSON. What is asked of the host is logged before it is done.
"""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import inside  # isort: skip; it makes the host and the pack importable
import comfy.model_management as memory
import comfy.sd
import torch
from portraits.fluxguard_core.errors import FluxGuardError
from portraits.fluxguard_core.faces.alignment import whole_frame
from portraits.fluxguard_core.flow import flux_schedule, invert
from portraits.fluxguard_core.mini.faces import load_recogniser
from portraits.fluxguard_core.protect.engine import Descent
from portraits.fluxguard_core.protect.perceptual import VGG19Features, feature_distance
from portraits.fluxguard_core.protect.presets import preset_named
from portraits.fluxguard_core.protect.refiner import Branches, Refined
from portraits.fluxguard_core.protect.run import edit_and_protect
from portraits.nodes import host as bridge
from portraits.nodes import preparation
from portraits.nodes.shield_models import Asked
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode

golden = Path(inside.pack) / "tests" / "golden"
run = load_file(golden / "open_run.safetensors")
WORK = 10**9
log, found = [], {}
load, free, empty = memory.load_models_gpu, memory.free_memory, memory.soft_empty_cache


def logged_load(models, memory_required=0, minimum_memory_required=None, **options):
    kinds = [type(handle.model).__name__ for handle in models]
    log.append(["load", kinds, memory_required >= WORK])
    return load(models, memory_required, minimum_memory_required=minimum_memory_required, **options)


def logged_free(required, device, keep_loaded=(), **options):
    if required >= 1e30:
        log.append(["clear", [type(held.model.model).__name__ for held in keep_loaded]])
    return free(required, device, list(keep_loaded), **options)


memory.load_models_gpu, memory.free_memory = logged_load, logged_free
memory.soft_empty_cache = lambda force=False: log.append(["empty"])


def prompt(which, guidance):
    options = {"pooled_output": run[f"{which}_pooled"].float(), "guidance": guidance}
    return [[run[f"{which}_context"].float(), options]]


def moved(branches: Branches) -> Refined:
    log.append(["refine", round(branches.sigma, 3) > 0])
    latent = branches.adversarial + 0.1
    return Refined(latent, Descent(torch.zeros_like(latent), ()))


def failing(times: int):
    """A refiner that finds no memory so many times."""
    left = [times]

    def refine(branches: Branches) -> Refined:
        if left[0]:
            left[0] -= 1
            log.append(["no memory"])
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return moved(branches)

    return refine


def protect(refine):
    turns = bridge.Turns([decoder.module], lambda: WORK)
    log.clear()
    made = bridge.with_field(
        turns.with_model(model),
        prompt("target", 5.5),
        lambda field: edit_and_protect(
            field, trajectory, (), turns.refining(refine), attacked_intervals=2
        ),
        shape=torch.Size((2, 16, 16, 16)),
        sigmas=trajectory.sigmas,
        solver="midpoint",
        follows=trajectory,
    )
    return turns, made, list(log)


def by_turns() -> None:
    _, plain, found["log"] = protect(moved)
    turns, again, found["log once"] = protect(failing(1))
    found["once"] = turns.failure is None and torch.equal(again.protected, plain.protected)
    turns, edited, found["log twice"] = protect(failing(2))
    found["twice"] = [isinstance(turns.failure, bridge.OutOfMemory), str(turns.failure)]
    found["edit kept"] = torch.equal(edited.edited, plain.edited)
    found["untouched"] = float((edited.protected - edited.edited).abs().max())
    alone = bridge.Turns([decoder.module], lambda: WORK)
    still = torch.zeros(1, 16, 16, 16)
    try:
        alone.refining(failing(2))(Branches(still, still, still, still, 0.0, 0))
    except FluxGuardError as error:
        found["alone"] = str(error) == str(turns.failure)
    try:
        alone.refining(lambda _: [][0])(Branches(still, still, still, still, 0.0, 0))
    except IndexError:
        found["other errors"] = True


def shields() -> None:
    """A shield that finds no memory is begun again once, then the node says what to choose."""

    def shielded(failures: int, **needs: bool) -> list[object]:
        left = [failures]

        def fail(*_: object) -> None:
            if left[0]:
                left[0] -= 1
                raise torch.OutOfMemoryError("CUDA out of memory.")

        def work(surrogate) -> str:
            if not needs["needs_way_back"]:
                fail()
            return "made"

        log.clear()
        network = bridge.differentiable_field(model, prompt("source", 1.0)).network
        hook = network.register_forward_pre_hook(fail) if needs["needs_way_back"] else None
        asked = Asked(vae, model, prompt("source", 1.0))
        try:
            told = asked.run(work, [(128, 128)], **needs)
        except bridge.OutOfMemory as error:
            told = str(error)
        finally:
            if hook is not None:
                hook.remove()
        return [told, [entry[0] for entry in log if entry[0] != "empty"]]

    ways = {
        "fast": {"needs_model": False, "needs_way_back": False},
        "balanced": {"needs_model": True, "needs_way_back": False},
        "strong": {"needs_model": True, "needs_way_back": True},
    }
    found["shields"] = {
        name: [shielded(failures, **needs) for failures in range(3)] for name, needs in ways.items()
    }


def needs() -> None:
    """What the presets ask for, in decodes and recognisers."""
    encoder = load_recogniser("ir")
    shape, pictures = torch.Size((1, 16, 16, 16)), (1, 3, 128, 128)
    full, small = decoder.bytes_needed(shape), decoder.bytes_needed(shape, gradients=False)
    tiny = SimpleNamespace(bytes_needed=lambda shape: 7)
    vgg = VGG19Features()
    seen = bridge.activation_bytes(encoder.network, (3, 3, encoder.size, encoder.size))
    two = bridge.activation_bytes(encoder.network, (2, 3, encoder.size, encoder.size))
    one = bridge.activation_bytes(encoder.network, (1, 3, encoder.size, encoder.size))
    felt = bridge.activation_bytes(vgg, pictures)
    plain = SimpleNamespace(decode=1, check=None)

    def need(preset, tiny, refiner, perceptual=None, together=True):
        wishes = SimpleNamespace(
            preset=preset_named(preset),
            ensemble=SimpleNamespace(attacked=[encoder, encoder]),
            options=SimpleNamespace(one_batch=together),
        )
        return preparation._working_bytes(
            wishes, refiner, decoder, tiny, shape, (128, 128), 1, perceptual
        )

    trusting = SimpleNamespace(decode="tiny", check="full")
    fast = need("fast", tiny, trusting)
    found["needs"] = {
        "default": need("default", None, plain, vgg)() == full + 2 * seen + felt,
        "default, in turn": need("default", None, plain, vgg, together=False)()
        == full + one + felt,
        "fast": fast() == max(small, 7 + 2 * two) < full,
        "counted": min(seen, felt) > 0,
    }
    trusting.decode = "full"
    found["needs"]["fast, no longer trusted"] = fast() == full + 2 * two
    found["activations"] = [kept(encoder.network, (2, 3, encoder.size, encoder.size)), two]


def kept(network, shape):
    """What a real run keeps for the way back."""
    sizes, weights = {}, {p.data_ptr() for p in (*network.parameters(), *network.buffers())}

    def keep(tensor):
        if tensor.data_ptr() not in weights:
            sizes[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.inference_mode(False), torch.enable_grad():
        given = torch.rand(shape, requires_grad=True)
        with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
            result = network(given)
    del result
    return sum(sizes.values())


def fake(network, mode, device):
    """A network of the same shape on a device that is not there."""
    twin = copy.deepcopy(network)
    for owner in twin.modules():
        for table in (owner._parameters, owner._buffers):
            for name, tensor in table.items():
                if tensor is not None:
                    shape = mode.from_tensor(tensor.detach())
                    with mode:
                        there = shape.to(device)
                    as_it_was = isinstance(tensor, torch.nn.Parameter)
                    table[name] = torch.nn.Parameter(there, False) if as_it_was else there
    return twin


def devices(here: str, apart: str) -> dict[str, object]:
    """FLUX's latents on one device, everything that looks at pictures on another."""
    encoder, vgg = load_recogniser("ir"), VGG19Features().eval().requires_grad_(False)
    with torch.inference_mode(False), torch.enable_grad():
        mode = FakeTensorMode()
        there, judge, eyes = (fake(n, mode, apart) for n in (decoder.module, encoder.network, vgg))
        with mode:
            z = torch.zeros(1, 16, 16, 16, device=here, requires_grad=True)
            picture = bridge.PictureDecoder(vae, there)(z)
            distance = feature_distance(bridge.on_its_device(eyes))(picture.detach())
            faces = whole_frame(picture, encoder.size)
            embedded = replace(encoder, network=judge)(faces)
            losses = [embedded.sum(), distance(picture).sum()]
            seen = {
                "devices": [str(t.device) for t in (picture, embedded, *losses)],
                "differentiable": all(loss.requires_grad for loss in losses),
            }
            # Autograd has no engine for a card that is not there; it has one for two CPUs.
            if here.startswith("cpu"):
                (slope,) = torch.autograd.grad(sum(losses), z)
                seen["slope"] = [str(slope.device), slope.shape == z.shape]
                try:
                    z + next(there.parameters()).flatten()[0:16]
                except RuntimeError as error:  # the devices do not mix unnoticed
                    seen["apart"] = "device" in str(error)
    return seen


with torch.inference_mode():
    model = comfy.sd.load_diffusion_model(str(golden / "open_flux.safetensors"))
    vae = inside.miniature_vae()
    decoder = bridge.picture_decoder(vae)
    source, sigmas = run["latent"].float(), flux_schedule(3, 64)
    trajectory = bridge.with_field(
        model,
        prompt("source", 1.0),
        lambda field: invert(field, source, sigmas, value_intervals=0),
        shape=source.shape,
        sigmas=sigmas,
        solver="midpoint",
        raw=True,
    )
    by_turns()
    shields()
    needs()
    found["cards"] = devices("cuda:1", "cuda:0")
    found["two"] = devices("cpu:1", "cpu:0")
print(json.dumps(found))
