"""The miniature's text encoder in the stock nodes that read a CLIP."""

from __future__ import annotations

from torch import Tensor

from .graphs import Builder, Link
from .miniature import pictures
from .server import Server

LORA = {"lora_name": "fluxguard-mini-sepia.safetensors", "strength_model": 1.0}
TEXT = "a person with long brown hair, white clothes, pink background"
OTHER = TEXT.replace("brown hair", "blond hair").replace("pink", "green")


class Drawing(Builder):
    """Pictures drawn from noise in three steps of the stock sampler."""

    def draw(self, model: Link, prompt: Link) -> str:
        """Draw and save; the saving node."""
        blank = self.link("EmptySD3LatentImage", width=128, height=128, batch_size=1)
        drawn = self.link(
            "KSampler",
            model=model,
            positive=prompt,
            negative=prompt,
            latent_image=blank,
            seed=5,
            steps=3,
            cfg=1.0,
            sampler_name="euler",
            scheduler="simple",
            denoise=1.0,
        )
        vae = self.link("VAELoader", vae_name="fluxguard-mini-vae.safetensors")
        image = self.link("VAEDecode", samples=drawn, vae=vae)
        return self.add("SaveImage", images=image, filename_prefix="drawn")

    def plain(self, clip: Link, text: str = TEXT) -> Link:
        return self.link("CLIPTextEncode", clip=clip, text=text)


def difference(first: Tensor, second: Tensor) -> float:
    return float((first - second).abs().mean())


def stock(graph: Drawing) -> tuple[Link, Link]:
    model = graph.link(
        "UNETLoader", unet_name="fluxguard-mini-flux.safetensors", weight_dtype="default"
    )
    return model, graph.link("FluxGuard_LoadMiniTextEncoder")


def test_load_lora_takes_model_and_clip(server: Server) -> None:
    """The LoRA changes the model; the text encoder, which it has nothing for, stays as it is."""
    graph = Drawing()
    model, clip = stock(graph)
    both = graph.add("LoraLoader", model=model, clip=clip, strength_clip=1.0, **LORA)
    only = graph.link("LoraLoaderModelOnly", model=model, **LORA)
    saves = [
        graph.draw(model, graph.plain(clip)),
        graph.draw(only, graph.plain(clip)),
        graph.draw([both, 0], graph.plain([both, 1])),
        graph.draw(model, graph.plain([both, 1])),
    ]
    outcome = server.result(graph.graph)
    plain, styled, loaded, text_only = (pictures(server, outcome, save) for save in saves)
    assert difference(plain, styled) > 0.01
    assert difference(loaded, styled) == 0
    assert difference(text_only, plain) == 0


def test_clip_text_encode_flux(server: Server) -> None:
    """One text for the pooled vector and one for the context, as FLUX's two encoders take them."""
    graph = Drawing()
    model, clip = stock(graph)

    def flux(clip_l: str, t5xxl: str) -> Link:
        texts = {"clip_l": clip_l, "t5xxl": t5xxl, "guidance": 3.5}
        return graph.link("CLIPTextEncodeFlux", clip=clip, **texts)

    guided = graph.link("FluxGuidance", conditioning=graph.plain(clip), guidance=3.5)
    prompts = [guided, flux(TEXT, TEXT), flux(TEXT, OTHER), flux(OTHER, TEXT), flux(OTHER, OTHER)]
    saves = [graph.draw(model, prompt) for prompt in prompts]
    outcome = server.result(graph.graph)
    wanted, same, context, pooled, both = (pictures(server, outcome, save) for save in saves)
    assert difference(wanted, same) == 0
    assert difference(same, context) > 0 and difference(same, pooled) > 0
    assert difference(context, both) > 0 and difference(pooled, both) > 0
