"""Network families of public face recognisers, with width and depth as parameters.

Every module returns embeddings [B,D] without normalisation; `FaceEncoder` normalises.
"""

from __future__ import annotations
