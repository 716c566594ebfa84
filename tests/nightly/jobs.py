"""The list of jobs, read from `jobs.toml`, and the rules that it must follow."""

from __future__ import annotations

import re
import shlex
import tomllib
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

ROOT = Path(__file__).parents[2]
_LIST = Path(__file__).with_name("jobs.toml")
_SEED = "{seed}"
_SEEDS = 1_000_000
_SETTING = re.compile(r"[A-Z_]+=.*")


@dataclass(frozen=True, slots=True)
class Command:
    """What follows `python -m`, and what is set in the environment."""

    words: tuple[str, ...]
    environ: Mapping[str, str]

    def __str__(self) -> str:
        """Return the line that repeats it in a shell."""
        settings = [f"{name}={shlex.quote(value)}" for name, value in self.environ.items()]
        return " ".join([*settings, ".venv/bin/python -m", shlex.join(self.words)])


def parse(line: str) -> Command:
    """Divide a line of the list into what is set in the environment and the words of the program."""
    words = shlex.split(line)
    settings = list(takewhile(_SETTING.fullmatch, words))
    environ = dict(word.split("=", 1) for word in settings)
    return Command(tuple(words[len(settings) :]), environ)


@dataclass(frozen=True, slots=True)
class Job:
    """One program. target: the make target that runs it. why: what it is for.

    run: the whole job, as words after `python -m`; words NAME=value before the module are set in its environment.
    short: what a run with a time limit has instead; {seed} is replaced by a number. seconds: how long the short job
    takes on two cores; whole_s: how long the whole one takes. Without short, or whole_s, both are the same.
    """

    id: str
    target: str
    run: str
    seconds: int
    why: str
    short: str = ""
    whole_s: int = 0

    def command(self, seed: str | None) -> Command:
        """Return what to run. Without a seed: the whole job."""
        if seed is None:
            return parse(self.run)
        return parse((self.short or self.run).replace(_SEED, str(number_of(seed))))

    def expected_s(self, *, short: bool) -> int:
        """Return how long the job takes."""
        return self.seconds if short else self.whole_s or self.seconds


def number_of(seed: str) -> int:
    """Return the same number for the same text: for programs whose seed is a number."""
    return zlib.crc32(seed.encode()) % _SEEDS


def load() -> list[Job]:
    """Return all jobs, in the order of the file."""
    return [Job(**item) for item in tomllib.loads(_LIST.read_text("utf-8"))["job"]]


def mistakes(jobs: Sequence[Job], root: Path = ROOT) -> list[str]:
    """Return what is wrong with the list.

    Duplicate ids, targets that the Makefile does not have, files without a test of their own for `make nightly`, and
    marked tests that no job runs.
    """
    targets = set(re.findall(r"^([a-z-]+):", (root / "Makefile").read_text("utf-8"), re.MULTILINE))
    wrong = [f"{name}: is listed twice" for name, count in Counter(job.id for job in jobs).items() if count > 1]
    wrong += [f"{job.id}: the Makefile has no target {job.target}" for job in jobs if job.target not in targets]
    wrong += [f"{job.id}: takes no time, or does not say why" for job in jobs if job.seconds <= 0 or not job.why]
    named = Counter(path for job in jobs for path in _test_files(job))
    marked = set(_marked(root))
    wrong += [f"{path}: is run by {count} jobs" for path, count in named.items() if count > 1]
    wrong += [f"{path}: has no test with the marker nightly" for path in sorted(set(named) - marked)]
    return wrong + [f"{path}: no job runs its tests with the marker nightly" for path in sorted(marked - set(named))]


def _test_files(job: Job) -> Iterable[str]:
    words = parse(job.run).words
    return [word for word in words if word.endswith(".py")] if "nightly" in words else []


def _marked(root: Path) -> Iterable[str]:
    for path in (root / "tests").rglob("test_*.py"):
        if re.search(r"\bmark\.nightly\b", path.read_text("utf-8")):
            yield path.relative_to(root).as_posix()
