"""Which faces a network knows, and which faces a picture shows: drawn ones or photos.

Everything that a user loads knows photos unless its file says otherwise; what is shipped inside the
package knows drawn portraits only and never judges, edits or calibrates a photo.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from torch import Tensor

World = Literal["drawn", "photo"]
WORLDS: tuple[World, ...] = ("drawn", "photo")

WorldOf = Callable[[Tensor], World]
"""Picture [3,H,W] or [1,3,H,W], RGB in [0,1] -> the world it is of."""
