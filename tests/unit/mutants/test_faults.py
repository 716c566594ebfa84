"""The list of faults fits the present tree, and a trial tells a fault that is noticed from one that is not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.mutants.faults import Fault, load, mistakes, part_of, shuffled
from tests.mutants.trial import Copy, Verdict

FAULTS = load()


def test_every_fault_can_be_planted_and_names_tests_that_exist() -> None:
    """If a text has moved on, adapt `old` and `new`; if a test was renamed, its node id."""
    assert mistakes(FAULTS) == []


def test_there_are_at_least_sixty_faults() -> None:
    assert len(FAULTS) >= 60


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"old": "no such text"}, "occurs 0 times"),
        ({"old": "import"}, "not once"),
        ({"file": "src/no_such_file.py"}, "occurs 0 times"),
        ({"new": FAULTS[0].old}, "`new` equals `old`"),
        ({"tests": ()}, "names no test"),
        ({"tests": ("tests/unit/mutants/test_faults.py::test_that_does_not_exist",)}, "there is no test"),
    ],
)
def test_a_fault_that_does_not_fit_is_found(change: dict[str, str], line: str) -> None:
    (found,) = mistakes([replace(FAULTS[0], **change)])  # type: ignore[arg-type]
    assert line in found
    assert found.startswith(FAULTS[0].id)


def test_an_id_is_used_once() -> None:
    assert mistakes([FAULTS[0], FAULTS[0]]) == [f"{FAULTS[0].id}: is listed twice"]


def test_the_parts_are_the_whole() -> None:
    parts = [fault.id for number in range(1, 8) for fault in part_of(FAULTS, f"{number}/7")]
    assert sorted(parts) == sorted(fault.id for fault in FAULTS)
    for wrong in ("0/7", "8/7", "3", "a/b", ""):
        with pytest.raises(ValueError, match="PART must be"):
            part_of(FAULTS, wrong)


def test_a_seed_decides_the_order() -> None:
    assert shuffled(FAULTS, "a") == shuffled(FAULTS, "a")
    assert shuffled(FAULTS, "a") != shuffled(FAULTS, "b")
    assert {fault.id for fault in shuffled(FAULTS, "a")} == {fault.id for fault in FAULTS}


@pytest.fixture
def copy(tmp_path: Path) -> Copy:
    """A copy of a tree with one function and one test."""
    source = tmp_path / "source"
    (source / "src").mkdir(parents=True)
    (source / "tests").mkdir()
    (source / "pyproject.toml").write_text("[tool.pytest.ini_options]\n")
    (source / "src/added.py").write_text("def add(one, two):\n    return one + two\n")
    (source / "tests/test_added.py").write_text(
        "import time\nfrom added import add\n\n\n"
        "def test_add():\n    time.sleep(add(0, 0))\n    assert add(1, 2) == 3\n"
    )
    return Copy(tmp_path / "copy", source)


@pytest.mark.parametrize(
    ("new", "verdict"),
    [
        ("one - two", Verdict.KILLED),
        ("two + one", Verdict.SURVIVED),
        ("one +", Verdict.BROKEN),
        ("one + two + 60", Verdict.TIMED_OUT),
    ],
)
def test_a_trial_tells_what_the_tests_made_of_a_fault(copy: Copy, new: str, verdict: Verdict) -> None:
    """Afterwards the copy is as before."""
    fault = Fault("f", "src/added.py", "one + two", new, ("tests/test_added.py::test_add",), "why")
    before = (copy.root / fault.file).read_text()
    assert copy.try_fault(fault, 5.0 if verdict is Verdict.TIMED_OUT else 60.0).verdict is verdict
    assert (copy.root / fault.file).read_text() == before


def test_after_a_trial_the_tests_run_without_its_fault(copy: Copy) -> None:
    """A compiled form of the fault, of the same size and the same second, is not used again."""
    fault = Fault("f", "src/added.py", "one + two", "one - two", ("tests/test_added.py::test_add",), "why")
    assert copy.try_fault(fault, 60.0).verdict is Verdict.KILLED
    assert copy.run(fault.tests, 60.0).verdict is Verdict.SURVIVED
