"""Small wheels and kits for tests, made without network."""

from __future__ import annotations

import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from nodectl.kits.manifest import MANIFEST, SUMS, KitManifest, sums_text
from nodectl.kits.platforms import PLATFORMS


def make_wheel(
    folder: Path,
    name: str,
    version: str = "1.0",
    requires: Sequence[str] = (),
    *,
    tag: str = "py3-none-any",
    files: Mapping[str, str] | None = None,
) -> Path:
    """Write a wheel that requires `requires` and holds `files`. Returns its path."""
    file = folder / f"{name.replace('-', '_')}-{version}-{tag}.whl"
    info = f"{name.replace('-', '_')}-{version}.dist-info"
    lines = [
        "Metadata-Version: 2.1",
        f"Name: {name}",
        f"Version: {version}",
        *(f"Requires-Dist: {r}" for r in requires),
    ]
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr(f"{info}/METADATA", "\n".join(lines) + "\n\n")
        for path, text in (files or {f"{name.replace('-', '_')}.py": "x = 1\n"}).items():
            archive.writestr(path, text)
    return file


def make_kit(folder: Path, release: str = "1.0-abcd", platform: str = "linux-amd64") -> Path:
    """Write an unpacked kit with a Python that does nothing. Returns its folder."""
    kit = folder / f"nodectl-{release}-{platform}"
    place = PLATFORMS[platform]
    python = kit / place.python_program
    module = kit / place.site_packages / "nodectl/__init__.py"
    for file, text in ((python, "#!/bin/sh\n"), (module, "x = 1\n"), (kit / "nodectl", "#!/bin/sh\n")):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    python.chmod(0o755)
    manifest = KitManifest(
        release=release, nodectl="1.0", commit="", platform=platform, python="3.11.2", etcd=None, apps=(), parts=()
    )
    (kit / MANIFEST).write_text(manifest.text())
    (kit / SUMS).write_text(sums_text(kit))
    return kit
