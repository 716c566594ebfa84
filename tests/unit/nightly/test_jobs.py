"""The list of jobs fits the Makefile and the marked tests; a job's exit code is judged as CI needs it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.nightly import skips
from tests.nightly.__main__ import CANNOT_RUN, judge, main
from tests.nightly.jobs import Job, load, mistakes, number_of, parse

JOBS = load()
DEMO = next(job for job in JOBS if job.id == "demo")


def test_each_marked_test_belongs_to_one_job_and_each_job_to_a_make_target() -> None:
    """A test that gets the marker without a job would never run again."""
    assert mistakes(JOBS) == []


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"target": "nosuch"}, "demo: the Makefile has no target nosuch"),
        ({"seconds": 0}, "demo: takes no time, or does not say why"),
        ({"run": "pytest -m nightly tests/unit/nightly/test_jobs.py"}, "has no test with the marker nightly"),
        ({"run": "pytest -m nightly"}, "test_demo.py: no job runs its tests with the marker nightly"),
    ],
)
def test_a_job_that_does_not_fit_is_found(change: dict[str, str | int], line: str) -> None:
    changed = [replace(job, **change) if job is DEMO else job for job in JOBS]  # type: ignore[arg-type]
    assert any(line in found for found in mistakes(changed))


def test_two_jobs_that_run_the_same_tests_are_found() -> None:
    assert mistakes([*JOBS, DEMO]) == [
        "demo: is listed twice", "tests/integration/operations/test_demo.py: is run by 2 jobs"
    ]  # fmt: skip


def test_a_command_is_its_environment_and_its_words_and_can_be_repeated() -> None:
    command = parse("QUICK=1 ONLY=a,b bench --seed=3")
    assert (command.words, command.environ) == (("bench", "--seed=3"), {"QUICK": "1", "ONLY": "a,b"})
    assert str(command) == "QUICK=1 ONLY=a,b .venv/bin/python -m bench --seed=3"


def test_only_a_part_with_a_seed_has_the_short_form() -> None:
    job = Job("j", "loads", "program --all", 5, "why", short="program --seed={seed}", whole_s=50)
    assert job.command(None).words == ("program", "--all")
    assert job.command("abc").words == ("program", f"--seed={number_of('abc')}")
    assert (job.expected_s(short=True), job.expected_s(short=False)) == (5, 50)


@pytest.mark.parametrize(
    ("code", "strict", "verdict"),
    [
        (0, True, None),
        (1, False, "exit code 1"),
        (CANNOT_RUN, False, None),
        (CANNOT_RUN, True, "cannot run here, and tests/skips.toml does not list it"),
    ],
)
def test_a_job_that_cannot_run_fails_only_where_skips_must_be_listed(
    monkeypatch: pytest.MonkeyPatch, code: int, strict: bool, verdict: str | None
) -> None:
    monkeypatch.setenv(skips.VARIABLE, "1" if strict else "")
    assert judge(DEMO, code) == verdict


def test_a_job_that_cannot_run_and_is_listed_passes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(skips.VARIABLE, "1")
    monkeypatch.setattr(skips, "load", lambda: [skips.ExpectedSkip("demo", "", "why")])
    assert judge(DEMO, CANNOT_RUN) is None


def test_a_part_is_printed_with_what_it_leaves_out(capsys: pytest.CaptureFixture[str]) -> None:
    """The same for the same seed, and each job is in one of the two."""
    printed = []
    for _ in range(2):
        assert main(["--seed=abc", "--seconds=300", "--list"]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    left_out = [line.split(": ")[1] for line in printed[0].splitlines() if line.startswith("left out: ")]
    chosen = [line.split()[0] for line in printed[0].splitlines() if not line.startswith("left out: ")]
    assert chosen
    assert sorted(chosen + left_out) == sorted(job.id for job in JOBS)


def test_an_unknown_job_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "nosuch"]) == 2
    assert "there is no such job; there are: hosts, " in capsys.readouterr().out


def test_the_limit_of_ci_is_the_one_that_is_tested() -> None:
    """`test_draw.py` checks that each job comes up in this time."""
    script = (Path(__file__).parents[3] / ".ci" / "run").read_text("utf-8")
    assert "\nNIGHTLY_S=360 " in script
