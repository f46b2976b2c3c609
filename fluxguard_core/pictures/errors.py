"""What can go wrong with picture files."""

from __future__ import annotations

from ..errors import FluxGuardError


class PictureError(FluxGuardError):
    """A picture file cannot be read or written; the message says why and what to do."""
