"""Maintenance: write size and sha256 of the miniature's shipped files into the manifest.

    python -m training.mini.update_manifest [--check]

Run after new weights were put into fluxguard_core/mini/weights. Files without an entry get one,
entries whose file is absent lose their checksum; --check changes nothing and exits with 1 when the
manifest is out of date.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

from fluxguard_core.errors import FluxGuardError
from fluxguard_core.weights.download import file_sha256
from fluxguard_core.weights.errors import ManifestError
from fluxguard_core.weights.manifest import (
    PACKAGE_ROOT,
    load_manifest,
    manifest_path,
    read_document,
)

WEIGHTS = "mini/weights"
_BY_FOLDER = {
    "diffusion_models": ("transformer", "diffusion_models"),
    "vae": ("autoencoder", "vae"),
    "text_encoders": ("text-encoder", "text_encoders"),
    "loras": ("lora", "loras"),
    "attributes": ("attribute-editor", "fluxguard/attributes"),
    "faces": ("recogniser", "fluxguard/recognisers"),
}


def update(document: dict[str, Any], package: Path) -> dict[str, Any]:
    """The manifest document with the miniature's entries brought up to date."""
    rows = [dict(row) for row in document["files"]]
    files = sorted((package / WEIGHTS).rglob("*.safetensors"))
    shipped = {path.relative_to(package).as_posix(): path for path in files}
    for row in rows:
        if row.get("package_path") is None:
            continue
        path = shipped.pop(row["package_path"], None)
        row["size"] = path.stat().st_size if path else None
        row["sha256"] = file_sha256(path) if path else None
    rows.extend(_new_row(relative, path) for relative, path in shipped.items())
    return {**document, "files": rows}


def _new_row(relative: str, path: Path) -> dict[str, Any]:
    if path.parent.name not in _BY_FOLDER:
        raise ManifestError(
            f"{path} lies in none of the folders {sorted(_BY_FOLDER)} of {WEIGHTS}; move it."
        )
    role, folder = _BY_FOLDER[path.parent.name]
    return {
        "id": path.stem,
        "role": role,
        "file": path.name,
        "folder": folder,
        "url": None,
        "size": path.stat().st_size,
        "sha256": file_sha256(path),
        "licence": "Apache-2.0",
        "licence_url": None,
        "commercial_use": True,
        "consent": False,
        "used_by": ["demo", "tests"],
        "package_path": relative,
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line entry; 0 when the manifest is (now) up to date, 1 when --check finds it old."""
    parser = argparse.ArgumentParser(prog="python -m training.mini.update_manifest")
    parser.add_argument("--manifest", type=Path, help="the manifest to update")
    parser.add_argument("--package", type=Path, default=PACKAGE_ROOT, help="folder of the package")
    parser.add_argument(
        "--check", action="store_true", help="change nothing; exit 1 when out of date"
    )
    args = parser.parse_args(arguments)
    try:
        path = args.manifest or manifest_path()
        before = read_document(path)
        after = update(before, args.package)
    except FluxGuardError as error:
        print(error, file=sys.stderr)
        return 2
    if after == before:
        print(f"{path} is up to date")
        return 0
    if args.check:
        print(f"{path} is out of date; run python -m training.mini.update_manifest")
        return 1
    path.write_text(json.dumps(after, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    load_manifest(path)
    print(f"{path} was updated")
    return 0


if __name__ == "__main__":
    sys.exit(main())
