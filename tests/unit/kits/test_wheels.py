"""Which wheels a kit needs on a platform, and how they are unpacked."""

from __future__ import annotations

import zipfile
from collections.abc import Iterable, Sequence
from pathlib import Path

import pytest

from nodectl.kits.lock import Pin, parse_lock
from nodectl.kits.pieces.wheels import Closure, check_fits, read_wheel, unpack
from nodectl.kits.platforms import PLATFORMS
from nodestore.errors import Invalid
from tests.support.kits import make_wheel

LINUX, WINDOWS = PLATFORMS["linux-amd64"], PLATFORMS["windows-amd64"]
HASH = "sha256:" + "0" * 64
LOCK = parse_lock(
    "".join(
        f"{entry} \\\n    --hash={HASH}\n    # via nodectl\n"
        for entry in ("a==2.0", "b==1.0", "colorama==0.4 ; sys_platform == 'win32'", "c==3.0", "extra-part==1.0")
    ),
    "requirements.lock",
)
INDEX = {
    "a": ("2.0", ["b", "colorama; sys_platform == 'win32'"]),
    "b": ("1.0", ["c[part]"]),
    "c": ("3.0", ["extra_part; extra == 'part'", "never; extra == 'other'"]),
    "colorama": ("0.4", []),
    "extra-part": ("1.0", []),
}


class Index:
    """A package index. It makes the wheels that are fetched."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __call__(self, pins: Sequence[Pin]) -> Iterable[Path]:
        return [make_wheel(self.folder, pin.name, *INDEX[pin.name]) for pin in pins]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "index").mkdir()
    return tmp_path


def _collect(folder: Path, *given: Path, platform: str = "linux-amd64") -> list[str]:
    closure = Closure(PLATFORMS[platform], "3.11.2", LOCK, Index(folder / "index"))
    return [wheel.name for wheel in closure.collect([read_wheel(file) for file in given])]


def test_a_kit_has_what_its_wheels_need_on_its_platform(folder: Path) -> None:
    own = make_wheel(folder, "nodectl", requires=["a>=1"])
    assert _collect(folder, own) == ["a", "b", "c", "extra-part", "nodectl"]


def test_markers_are_those_of_the_kits_platform_and_not_of_this_pc(folder: Path) -> None:
    own = make_wheel(folder, "nodectl", requires=["a>=1"])
    assert "colorama" in _collect(folder, own, platform="windows-amd64")


def test_an_application_may_use_what_nodectl_needs_and_what_is_given(folder: Path) -> None:
    own = make_wheel(folder, "nodectl", requires=["c"])
    app = make_wheel(folder, "wall-app", requires=["nodectl", "c<4", "wall-parts==1.0"])
    parts = make_wheel(folder, "wall-parts")
    assert _collect(folder, own, app, parts) == ["c", "nodectl", "wall-app", "wall-parts"]


@pytest.mark.parametrize(
    ("requires", "message"),
    [
        ("missing>=2", "wall-app 1.0 requires missing>=2, which is neither part of nodectl nor given: .* --app"),
        ("c>=4", "wall-app 1.0 requires c>=4, but the kit has version 3.0"),
        ("nodectl>=9", "wall-app 1.0 requires nodectl>=9, but the kit has version 1.0"),
        ("???", "has a requirement that cannot be read"),
    ],
)
def test_what_an_application_lacks_is_said(folder: Path, requires: str, message: str) -> None:
    own = make_wheel(folder, "nodectl", requires=["c"])
    with pytest.raises(Invalid, match=message):
        _collect(folder, own, make_wheel(folder, "wall-app", requires=[requires]))


def test_the_same_package_twice_is_refused(folder: Path) -> None:
    with pytest.raises(Invalid, match="are the same package"):
        _collect(folder, make_wheel(folder, "wall-app"), make_wheel(folder, "wall-app", "2.0"))


@pytest.mark.parametrize(
    ("tag", "linux", "windows"),
    [
        ("py3-none-any", True, True),
        ("cp311-cp311-manylinux_2_17_x86_64.manylinux2014_x86_64", True, False),
        ("cp38-abi3-manylinux_2_28_x86_64", True, False),
        ("cp311-cp311-manylinux_2_39_x86_64", False, False),  # needs a newer glibc than Debian 12's
        ("cp313-cp313-win_amd64", False, True),
        ("cp311-cp311-win_amd64", False, False),
        ("cp311-abi3-win_amd64", False, True),
        ("py2-none-any", False, False),
    ],
)
def test_a_wheel_for_another_platform_is_refused(folder: Path, tag: str, linux: bool, windows: bool) -> None:
    wheel = read_wheel(make_wheel(folder, "wall-app", tag=tag))
    for platform, fits in ((LINUX, linux), (WINDOWS, windows)):
        if fits:
            check_fits(wheel, platform)
        else:
            with pytest.raises(Invalid, match=f"is not for {platform.name}"):
                check_fits(wheel, platform)


def test_only_packages_are_unpacked(folder: Path) -> None:
    names = ["pkg/a.py", "x-1.0.data/purelib/b.py", "x-1.0.data/platlib/c.so", "x-1.0.data/scripts/run", "x-1.0.data/h"]
    wheel = read_wheel(make_wheel(folder, "x", files=dict.fromkeys(names, "")))
    unpack(wheel, folder / "out")
    found = {path.relative_to(folder / "out").as_posix() for path in (folder / "out").rglob("*") if path.is_file()}
    assert found == {"pkg/a.py", "b.py", "c.so", "x-1.0.dist-info/METADATA"}


@pytest.mark.parametrize("name", ["../evil.py", "/evil.py", "a/../../evil.py", "a\\..\\evil.py", "C:/evil.py"])
def test_a_path_outside_of_the_folder_is_refused(folder: Path, name: str) -> None:
    wheel = read_wheel(make_wheel(folder, "x", files={name: ""}))
    with pytest.raises(Invalid, match="outside of its folder"):
        unpack(wheel, folder / "out/inner")
    assert not list(folder.rglob("evil.py"))


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04"])
def test_a_damaged_wheel_is_one_clear_line(folder: Path, content: bytes) -> None:
    file = folder / "x-1.0-py3-none-any.whl"
    file.write_bytes(content)
    with pytest.raises(Invalid, match="is not a wheel"):
        read_wheel(file)


def test_a_wheel_without_metadata_is_one_clear_line(folder: Path) -> None:
    file = folder / "x-1.0-py3-none-any.whl"
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("x.py", "")
    with pytest.raises(Invalid, match="is not a wheel"):
        read_wheel(file)


def test_a_file_with_another_name_is_no_wheel(folder: Path) -> None:
    with pytest.raises(Invalid, match="its name must be"):
        read_wheel(folder / "app.zip")
