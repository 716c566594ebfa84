"""Runs the Windows kit under Wine: its commands, then the unit tests of `listed.txt` by the kit's own Python.

`python -m tests.windows [KIT.zip]`: without a kit it builds one. Exit code 77 if Wine is not installed, or if a kit or
pytest's wheels cannot be fetched.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from nodectl.kits.build import KitWish, build
from nodectl.kits.lock import parse_lock
from nodectl.kits.pieces.wheels import Closure, PipDownload, read_wheel, unpack
from nodectl.kits.platforms import PLATFORMS
from nodectl.kits.verify import verify
from nodestore.errors import NodectlError, Unavailable
from tests.support.kits import make_wheel
from tests.windows.wine_pc import WinePc, reason_against

_ROOT = Path(__file__).parents[2]
_WANTED = ("pytest", "pytest-timeout", "hypothesis", "packaging")
_COMMAND_TIMEOUT_S, _TESTS_TIMEOUT_S = 120.0, 900.0
_SKIPPED = 77
_LINES_MAX = 200
_RUN = """\
import sys
sys.path[:0] = [{library!r}, {root!r}]
import pytest
code = pytest.main({arguments!r})
with open({result!r}, "w") as file:
    file.write(str(int(code)))
"""


def main(arguments: Sequence[str]) -> int:
    if (reason := reason_against()) is not None:
        print(reason)
        return _SKIPPED
    with tempfile.TemporaryDirectory(prefix="nodectl-wine-") as name:
        folder = Path(name)
        try:
            return _try_kit(Path(arguments[0]) if arguments else _build(folder / "kit.zip"), folder)
        except Unavailable as error:
            print(error)
            return _SKIPPED
        except NodectlError as error:
            print(error)
            return 1


def _build(target: Path) -> Path:
    return build(KitWish(platform=PLATFORMS["windows-amd64"], target=target), print).file


def _try_kit(kit: Path, folder: Path) -> int:
    version = verify(kit).manifest.nodectl
    pc = WinePc(folder / "pc")
    try:
        place = pc.unpack(kit)
        _add_pytest(pc.c / "tests/lib", folder)
        return _try_commands(pc, place, version) or _run_tests(pc, place)
    finally:
        pc.close()


def _add_pytest(library: Path, folder: Path) -> None:
    platform = PLATFORMS["windows-amd64"]
    lock = parse_lock((_ROOT / "requirements.lock").read_text("utf-8"), "requirements.lock")
    closure = Closure(platform, "3.13.0", lock, PipDownload(platform, folder / "wheels"))
    for wheel in closure.collect([read_wheel(make_wheel(folder, "wanted", requires=_WANTED))]):
        unpack(wheel, library)


def _try_commands(pc: WinePc, place: Path, version: str) -> int:
    """The launchers run from a folder with a blank in its name."""
    for program in ("nodectl", "masterd", "noded", "hostd"):
        path = "C:\\" + str(place.relative_to(pc.c) / f"{program}.cmd").replace("/", "\\")
        code, output = pc.run(["wine", "cmd", "/c", path, "--version"], timeout_s=_COMMAND_TIMEOUT_S)
        if code != 0 or output.strip() != f"{program} {version}":
            print(f"{program}.cmd --version: exit code {code}, {output.strip()[:2000]!r}")
            return 1
    print("the launchers run")
    return 0


def _run_tests(pc: WinePc, place: Path) -> int:
    """Run the listed tests. A Python that Wine ends with a crash has exit code 0, so pytest's code is in a file."""
    lines = (Path(__file__).parent / "listed.txt").read_text("utf-8").splitlines()
    tests = [line for line in lines if line and not line.startswith("#")]
    options = ["-q", "-rf", "--tb=short", "-o", "addopts=--strict-markers -p no:cacheprovider -m 'not nightly'"]
    script, result = pc.c / "tests/run.py", pc.c / "tests/result"
    text = _RUN.format(
        library="C:\\tests\\lib", root="Z:" + str(_ROOT).replace("/", "\\"), result="C:\\tests\\result",
        arguments=[*options, "--timeout=120", *tests],
    )  # fmt: skip
    script.write_text(text, "utf-8")
    began = time.monotonic()
    argv = ["wine", str(place / "python/python.exe"), "-X", "utf8", "C:\\tests\\run.py"]
    _, output = pc.run(argv, cwd=_ROOT, timeout_s=_TESTS_TIMEOUT_S)
    print("\n".join(output.splitlines()[-_LINES_MAX:]))
    code = int(result.read_text()) if result.is_file() else 1
    print(
        f"{len(tests)} folders and files of tests under Wine: exit code {code} after {time.monotonic() - began:.0f} s"
    )
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
