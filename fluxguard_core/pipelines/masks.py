"""Words to the mask of one portrait, by the best that the models have: a face parser, then FLUX itself."""

from __future__ import annotations

from torch import Tensor

from ..backends.flux_concepts import flux_concepts
from ..faces.face import Face
from ..regions import (
    Found,
    MaskSource,
    auto_source,
    concept_source,
    latent_mask,
    parser_source,
    shaped,
)
from .models import Models


def found_from_words(
    models: Models, picture: Tensor, source_prompt: str, prompt: str, face: Face
) -> Found:
    """What ``prompt`` says differently from ``source_prompt``, found in a picture [1, 3, H, W].

    Grown by half a latent cell, so that the cells on its rim are edited rather than half kept.

    Raises:
        UnknownWords, EmptyMask, FullMask: what was looked for, what is there, what helps; never a mask that
            the model's cells do not see.
    """
    cell = models.stack.geometry.pixels
    found = word_sources(models, face)(picture[0], prompt, source_prompt)
    grown = shaped(found, pixels=cell / 2)
    latent_mask(grown, cell)
    return grown


def word_sources(models: Models, face: Face) -> MaskSource:
    """Region by region the face parser, and concept attention of the model itself where the parser has none.

    Concept attention costs one evaluation of the transformer, made only where it is needed. How well it finds
    regions in photos was not measured.
    """
    parser = None if models.parse_face is None else parser_source(models.parse_face, "face parser")
    attention = concept_source(
        flux_concepts(models.stack), lambda _: face.landmarks, phrases=models.phrases
    )
    return auto_source(parser=parser, attention=attention)
