"""`python -m tests.fuzz [--seconds N] [--draw N] [--seed N] [--only NAME ...] [--keep] [--replay FILE --only NAME]`.

Fuzzes each target for a time. Exit code 0: no parser failed. 1: one did; the input is in a file that is named. 77: the
fuzzer cannot run on this system. What a run found is kept in .cache/fuzz, and the next one goes on from there.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from tests.fuzz import corpora
from tests.fuzz.targets import TARGETS

ROOT = Path(__file__).parents[2]
CACHE = ROOT / ".cache" / "fuzz"
CANNOT_RUN = 77
_SECONDS = 600
_INPUT_S = 10
_MEMORY_MB = 2048
_INPUT_BYTES_MAX = 4096
_START_S = 120
_NOISE, _SHOWN_CHARS = ("INFO: ", "WARNING: "), 6_000


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: Sequence[str] | None = None) -> int:
    options = _parser().parse_args(arguments)
    if options.replay is not None:
        return _replay(options.only, options.replay)
    if importlib.util.find_spec("atheris") is None:
        say("atheris is not installed: it has packages for Linux and Python 3.11 to 3.13 only")
        return CANNOT_RUN
    names = options.only or list(TARGETS)
    if options.draw is not None:
        names = random.Random(options.seed).sample(names, min(options.draw, len(names)))
    if options.keep:
        for name in names:
            _keep(name)
        return 0
    failed = [name for name in names if not _fuzz(name, options.seconds, options.seed)]
    say(f"{len(names)} targets, {options.seconds} s each, {len(failed)} failed: {' '.join(failed) or '-'}")
    return 1 if failed else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="fuzz the parsers that read from outside")
    parser.add_argument("--seconds", type=int, default=_SECONDS, help="how long each target is fuzzed")
    parser.add_argument("--only", nargs="*", choices=list(TARGETS), help="only these targets")
    parser.add_argument("--draw", type=int, help="only so many targets, drawn by the seed")
    parser.add_argument("--seed", type=int, default=0, help="a number; 0: another run each time")
    parser.add_argument("--keep", action="store_true", help="add to the corpora what earlier runs found")
    parser.add_argument("--replay", type=Path, help="run one input, with its traceback")
    return parser


def _replay(only: Sequence[str] | None, path: Path) -> int:
    for name in only or TARGETS:
        say(f"{name}: {'accepted' if TARGETS[name].run(path.read_bytes()) else 'refused'}")
    return 0


def _fuzz(name: str, seconds: int, seed: int) -> bool:
    """Fuzz one target. Return whether it never failed."""
    found, failures = CACHE / name, CACHE / "failures"
    found.mkdir(parents=True, exist_ok=True)
    failures.mkdir(exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="nodectl-fuzz-") as folder:
        kept, words = Path(folder, "kept"), Path(folder, "words")
        corpora.unpack(name, kept)
        words.write_text("".join(f"{_quoted(word)}\n" for word in ("\n", *TARGETS[name].words)))  # never empty
        limits = [f"-max_total_time={seconds}", f"-timeout={_INPUT_S}", f"-rss_limit_mb={_MEMORY_MB}"]
        limits += [f"-max_len={_INPUT_BYTES_MAX}", f"-seed={seed}", f"-artifact_prefix={failures}/{name}-"]
        options = ["-print_final_stats=1", "-verbosity=0", f"-dict={words}"]
        return _run(name, [str(found), str(kept), *limits, *options], Path(folder), seconds + _START_S)


def _quoted(word: str) -> str:
    """A line of a dictionary of libFuzzer."""
    return '"' + "".join(f"\\x{byte:02x}" for byte in word.encode()) + '"'


def _run(name: str, arguments: Sequence[str], folder: Path, limit_s: float) -> bool:
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "HOME": str(folder), "PYTHONWARNINGS": "ignore"}
    try:
        done = subprocess.run(
            [sys.executable, "-m", "tests.fuzz.engine", name, *arguments],
            cwd=folder, env=environ, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            timeout=limit_s, check=False, encoding="utf-8", errors="replace",
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        say(f"{name}: no end after {limit_s:g} s")
        return False
    count = [line.split()[-1] for line in done.stdout.splitlines() if "number_of_executed_units" in line]
    say(f"{name}: {'passed' if done.returncode == 0 else 'FAILED'}, {''.join(count) or 'no'} inputs")
    if done.returncode:
        say("\n".join(line for line in done.stdout.splitlines() if not line.startswith(_NOISE))[-_SHOWN_CHARS:])
        say(f"again: .venv/bin/python -m tests.fuzz --only {name} --replay FILE")
    return done.returncode == 0


def _keep(name: str) -> None:
    """Write the corpus of a target anew: the inputs that together reach all that its inputs have reached."""
    with tempfile.TemporaryDirectory(prefix="nodectl-fuzz-") as folder:
        kept, merged = Path(folder, "kept"), Path(folder, "merged")
        corpora.unpack(name, kept)
        merged.mkdir()
        (CACHE / name).mkdir(parents=True, exist_ok=True)
        if not _run(name, ["-merge=1", str(merged), str(kept), str(CACHE / name)], Path(folder), _SECONDS):
            return
        found = corpora.files_in(merged)
        say(
            f"{name}: {corpora.save(name, found)} inputs kept"
            if found
            else f"{name}: FAILED, the fuzzer merged nothing"
        )


if __name__ == "__main__":
    sys.exit(main())
