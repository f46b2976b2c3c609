"""Weight files: the manifest, where files lie, checked downloads and safe loading."""

from __future__ import annotations

from .errors import ConsentError, DownloadError, ManifestError, ModelFileError, OfflineError
from .manifest import Entry, Manifest, load_manifest
from .where import find, require, search_roots

__all__ = [
    "ConsentError",
    "DownloadError",
    "Entry",
    "Manifest",
    "ManifestError",
    "ModelFileError",
    "OfflineError",
    "find",
    "load_manifest",
    "require",
    "search_roots",
]
