"""What can go wrong with weight files; every message ends with what to do."""

from __future__ import annotations

from ..errors import FluxGuardError


class ManifestError(FluxGuardError):
    """The list of weight files is missing or malformed."""


class ModelFileError(FluxGuardError):
    """A weight file is missing, truncated, half-downloaded, foreign or unsafe."""


class DownloadError(FluxGuardError):
    """A download could not be finished; what has arrived is kept for the next try if it is sound."""


class ConsentError(DownloadError):
    """The licence of a file has to be accepted first."""


class OfflineError(DownloadError):
    """Offline mode is on, so nothing is fetched."""
