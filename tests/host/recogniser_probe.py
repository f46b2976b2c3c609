"""Custom nodes of their own: what the host was asked to load, what recognisers were given; two faces."""

import json
from collections import defaultdict

import comfy.model_management as memory
import torch
from torch.nn.modules.module import register_module_forward_pre_hook

RECOGNISERS = ("IRBackbone", "InceptionResnetV1", "MobileFaceNet", "GraphNetwork")
requests, runs, gradients = [], defaultdict(int), defaultdict(list)
_load = memory.load_models_gpu


def load_models_gpu(models, *args, **kwargs):
    requests.append([type(handle.model).__name__ for handle in models])
    return _load(models, *args, **kwargs)


memory.load_models_gpu = load_models_gpu


def _before(module, given):
    name = type(module).__name__
    if name in RECOGNISERS:
        runs[name] += 1
        if torch.is_grad_enabled() and given[0].requires_grad:
            given[0].register_hook(lambda g: gradients[name].append(float(g.norm())))


register_module_forward_pre_hook(_before)


class Recognisers:
    """Tells everything since it was last asked, and what the host holds now."""

    RETURN_TYPES = ()
    FUNCTION = "tell"
    OUTPUT_NODE = True
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}, "optional": {"after": ("*",)}}

    @classmethod
    def IS_CHANGED(cls, **kwargs):
        return float("nan")

    def tell(self, after=None):
        held = [type(entry.model.model).__name__ for entry in memory.current_loaded_models]
        told = {"requests": requests, "runs": runs, "gradients": gradients, "held": held}
        text = json.dumps(told)
        for seen in (requests, runs, gradients):
            seen.clear()
        return {"ui": {"text": [text]}}


class TwoFaces:
    """Boxes of two faces in one picture, the second of them the larger, as a detector hands them over."""

    RETURN_TYPES = ("BOUNDING_BOX",)
    FUNCTION = "boxes"
    CATEGORY = "probe"

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def boxes(self):
        small = {"x": 34, "y": 40, "width": 50, "height": 64}
        return ([[small, {"x": 152, "y": 30, "width": 66, "height": 84}]],)


NODE_CLASS_MAPPINGS = {"Probe_Recognisers": Recognisers, "Probe_TwoFaces": TwoFaces}
