"""The report of `make bench`: figures, pictures and page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import __main__ as program
from bench import suite
from bench.harness.figures import figure, percentile
from bench.harness.goals import Goal, within
from bench.measures import power
from bench.report import page as report
from bench.report.picture import caption, svg
from nodestore.support.jsonio import loads


def test_p99_of_times_is_on_the_slow_side() -> None:
    """Of a hundred trials the second slowest; the worst is the slowest."""
    found = figure("times", [float(number) for number in range(1, 101)], "ms", [2.0, 4.0], "bare")
    assert (found.median, found.p99, found.max, found.baseline) == (50.5, 99.0, 100.0, 3.0)
    assert (found.worst, found.better) == (100.0, "lower")
    assert found.ratio == pytest.approx(50.5 / 3)


def test_p99_of_rates_is_on_the_slow_side_too() -> None:
    """There the slow trials are the small ones; the largest value is the largest all the same."""
    found = figure("rates", [float(number) for number in range(1, 101)], "1/s")
    assert (found.p99, found.worst, found.max, found.better) == (2.0, 1.0, 100.0, "higher")


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """A percentile is one of the measured values, even of a single trial."""
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="nothing was measured"):
        figure("none", [], "ms")


@pytest.mark.parametrize(
    ("goals", "met", "text"),
    [
        ([], None, ""),
        ([Goal("median", "at most", 2.0)], True, "median at most 2 ms"),
        ([Goal("median", "under", 2.0)], False, "median under 2 ms"),
        ([Goal("p99", "at most", 8.9)], False, "p99 at most 8.9 ms"),
        (within(2.0, 9.0), True, "median at most 2 ms, p99 at most 9 ms"),
        (within(1.9, 1_100.0), False, "median at most 1.9 ms, p99 at most 1,100 ms"),
        (within(2.0, 8.0), False, "median at most 2 ms, p99 at most 8 ms"),
        ([Goal("worst", "under", 9.0)], False, "under 9 ms"),
        ([Goal("worst", "at most", 9.0)], True, "at most 9 ms"),
        ([Goal("ratio", "at most", 0.5)], True, "at most 0.5x"),
        ([Goal("ratio", "at least", 0.6)], False, "at least 0.6x"),
    ],
)
def test_a_goal_is_met_or_not(goals: list[Goal], met: bool | None, text: str) -> None:
    """A goal is compared with the number that it names: median 2, p99 and worst 9, bare operation 4."""
    found = figure("times", [1.0, 2.0, 9.0], "ms", [4.0], "bare", goals=goals)
    assert (found.met, found.goal) == (met, text)


def test_a_goal_for_each_trial_of_rates_is_for_the_slowest() -> None:
    """Though the fastest is far above."""
    assert figure("rates", [10.0, 99.0], "1/s", goals=[Goal("worst", "at least", 11.0)]).met is False
    assert figure("rates", [10.0, 99.0], "1/s", goals=[Goal("worst", "at least", 10.0)]).met is True


@pytest.mark.parametrize("baseline", [None, [0.0], [-3.0]])
def test_a_ratio_that_cannot_be_computed_is_not_met(baseline: list[float] | None) -> None:
    """Nothing to compare with, or nothing that a ratio to it would mean anything of."""
    found = figure("CPU", [1.0], "us", baseline, goals=[Goal("ratio", "at most", 1.2)])
    assert (found.ratio, found.met) == (None, False)


@pytest.mark.parametrize(
    ("unit", "text"),
    [
        ("ms", "the part of the trials that took no longer"),
        ("1/s", "the part of the trials that were no faster"),
        ("MB", "the part of the values that are no larger"),
        ("% of a core", "the part of the values that are no larger"),
        ("", "the part of the values that are no larger"),
    ],
)
def test_a_picture_says_what_it_shows(unit: str, text: str) -> None:
    """Only what is a time takes long."""
    assert caption(figure("this", [1.0, 2.0], unit)) == f"this: {text}"


@pytest.mark.parametrize("values", [[3.0], [1.0, 1.0], [0.02, 5.0, 900.0], [float(n) for n in range(1, 2_000)]])
def test_a_picture_is_readable_and_stays_inside(values: list[float]) -> None:
    """Whatever was measured: the curve begins at nothing and ends at all, within the frame."""
    tree = ElementTree.fromstring(svg(figure("a <name> & more", values, "ms", [2.0, 3.0], "bare")))
    width, height = (float(part) for part in tree.attrib["viewBox"].split()[2:])
    curves = [part for part in tree.iter() if part.tag.endswith("polyline")]
    assert len(curves) == 2
    for curve in curves:
        points = [tuple(float(axis) for axis in point.split(",")) for point in curve.attrib["points"].split()]
        assert all(0 <= x <= width and 0 <= y <= height for x, y in points)
        assert points[0][1] > points[-1][1]
        assert [x for x, _ in points] == sorted(x for x, _ in points)


@pytest.fixture
def written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which it is all written instead."""
    for name in ("PAGE", "PICTURES", "DATA", "PARTIAL"):
        monkeypatch.setattr(report, name, tmp_path / getattr(report, name))
    (tmp_path / "docs").mkdir()
    return tmp_path


def test_page_and_data_hold_every_figure(written: Path) -> None:
    """The page names what was not measured; data are by name, with what other programs need."""
    figures = [
        figure("one thing", [1.0, 2.0], "ms", [1.0], "bare", goals=[Goal("ratio", "at most", 2.0)]),
        figure("another", [3.0], "MB"),
        figure("nothing", [0.0, 0.0], "GB"),
    ]
    report.write_page(figures, ["trials: few"], ["a note"], {"power": "no root | here"})
    report.write_data(figures, report.DATA)
    page = report.PAGE.read_text("utf-8")
    assert "| one thing | 2 | 1.5 ms | – | 2 | bare: 1 ms | 1.50x | at most 2x | yes |" in page
    assert "| another | 1 | 3 MB | – | 3 |  |  |  |  |" in page
    assert "| power |  |  |  |  | not measured: no root / here |  |  |  |" in page
    rows = [line for line in page.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rows} == {10}
    assert [path.name for path in report.PICTURES.iterdir()] == ["one-thing.svg"]  # what is a distribution
    assert "![one thing: the part of the trials that took no longer](benchmarks/one-thing.svg)" in page
    data = loads(report.DATA.read_bytes())
    assert list(data["one thing"])[:7] == ["n", "median", "p99", "max", "unit", "baseline", "ratio"]
    assert list(data["one thing"].values())[:7] == [2, 1.5, 2.0, 2.0, "ms", 1.0, 1.5]
    more = {"worst": 2.0, "better": "lower", "met": True, "goal": "at most 2x", "planned": 2}
    assert data["one thing"] | more == data["one thing"]
    assert data["one thing"]["goals"] == [{"of": "ratio", "relation": "at most", "bound": 2.0}]
    assert data["another"]["met"] is None


def test_data_of_rates_hold_their_true_maximum(written: Path) -> None:
    """The maximum of a rate is its best value; its worst value and p99 are the low ones."""
    report.write_data([figure("rates", [10.0, 99.0, 50.0], "1/s")], report.PARTIAL)
    data = loads(report.PARTIAL.read_bytes())["rates"]
    assert (data["max"], data["worst"], data["p99"], data["better"]) == (99.0, 10.0, 10.0, "higher")


@pytest.mark.parametrize(
    ("n", "goals", "shown"),
    [(99, [], "–"), (100, [], "99"), (99, [Goal("median", "at most", 1.0)], "–"), (99, within(1.0, 200.0), "99")],
)
def test_p99_of_few_trials_is_shown_only_where_it_is_judged(n: int, goals: list[Goal], shown: str) -> None:
    """With few trials the p99 is the worst value, which has its own column."""
    found = report.table([figure("times", [float(number) for number in range(1, n + 1)], "ms", goals=goals)])
    columns = {str(column.header): list(column.cells) for column in found.columns}
    assert columns["p99"] == [shown]
    assert columns["worst"] == [str(n)]


def test_a_series_that_broke_off_shows_in_its_row() -> None:
    """An incomplete series shows the planned number of trials; a complete one shows just its number."""
    found = report.table([figure("half", [1.0] * 37, "ms", planned=100), figure("whole", [1.0] * 5, "ms", planned=5)])
    assert list(found.columns[1].cells) == ["37 of 100", "5"]


@pytest.mark.parametrize(
    ("quick", "only", "paths"),
    [
        (False, False, {"build/bench.json", "docs/benchmarks.md"}),
        (True, False, {"build/bench.json"}),
        (False, True, {"build/bench-partial.json"}),
        (True, True, {"build/bench-partial.json"}),
    ],
)
def test_only_a_full_run_writes_the_page(written: Path, quick: bool, only: bool, paths: set[str]) -> None:
    """A run of some parts leaves alone what a whole one has measured."""
    bench = suite.BenchRun(suite.QUICK, lambda line: None, figures=[figure("one", [1.0], "ms")])
    paths_returned = program.write(bench, "a machine", quick=quick, only=only)
    found = {path.relative_to(written).as_posix() for path in written.rglob("*") if path.is_file()}
    assert found == paths == {path.relative_to(written).as_posix() for path in paths_returned}


def test_the_table_with_tls_is_compared_and_not_judged(written: Path) -> None:
    """It follows the first table, with the median of the same figure without TLS."""
    plain = [figure("one", [2.0], "ms", goals=[Goal("median", "at most", 2.0)])]
    bench = suite.BenchRun(suite.QUICK, lambda line: None, figures=plain)
    bench.with_tls = suite.BenchRun(
        suite.QUICK, lambda line: None, is_tls=True, figures=[figure("one", [3.0], "ms"), figure("other", [1.0], "ms")]
    )
    program.write(bench, "a machine", quick=False, only=False)
    page = report.PAGE.read_text("utf-8")
    assert page.index("## Results") < page.index("## With TLS") < page.index("## Each of them")
    assert "| one | 1 | 3 ms | – | 3 |  |  | 2 ms | 1.50 |" in page
    assert "| other | 1 | 1 ms | – | 1 |  |  |  |  |" in page
    assert loads(report.DATA.read_bytes())["with TLS"]["one"]["median"] == 3.0
    assert list(report.tls_table(bench.with_tls.figures, plain).columns[-1].cells) == ["1.50", ""]


@pytest.mark.parametrize(
    ("argv", "only", "code", "line"),
    [
        (["--help"], "", 0, "usage: python -m bench"),
        (["--only", "commands"], "", 2, "unrecognized arguments: --only commands"),
        ([], "comands,rest", 2, "ONLY: there is no part comands; there are: fresh,"),
    ],
)
def test_a_question_or_a_mistake_starts_nothing(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    argv: list[str],
    only: str,
    code: int,
    line: str,
) -> None:
    """Help, an unknown argument and an unknown part end at once."""
    started: list[object] = []
    monkeypatch.setattr(program, "run", lambda *of: started.append(of))
    monkeypatch.setenv("ONLY", only)
    try:
        found: object = program.main(argv)
    except SystemExit as end:
        found = end.code
    output = "".join(capsys.readouterr())
    assert (found, started) == (code, [])
    assert line in output
    assert only == "" or output.count("\n") == 1


def test_the_load_is_that_before_the_run(written: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The load average is measured before the run, so that the run itself does not count."""
    asked: list[str] = []

    def machine() -> str:
        asked.append("machine")
        return "a machine, load average before the run 0.1"

    def run(trials: suite.Trials, only: tuple[str, ...], say: object) -> suite.BenchRun:
        asked.append("run")
        return suite.BenchRun(trials, lambda line: None, figures=[figure("one", [1.0], "ms")])

    monkeypatch.setattr(report, "describe_machine", machine)
    monkeypatch.setattr(program, "run", run)
    for name in ("QUICK", "ONLY"):
        monkeypatch.delenv(name, raising=False)
    assert program.main() == 0
    assert asked == ["machine", "run"]
    assert "- machine: a machine, load average before the run 0.1" in report.PAGE.read_text("utf-8")


@pytest.mark.parametrize(
    ("program", "missing", "measured"),
    [
        ("print('as it is'); print('no root'); sys.exit(77)", "no root", 0),
        ("sys.exit('broke')", "it ended with code 1: broke", 0),
        ("tried(300.0), tried(310.0)", "", 2),
        ("tried(300.0), sys.exit('broke')", "", 1),
    ],
)
async def test_power_is_measured_as_far_as_the_machine_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, missing: str, measured: int
) -> None:
    """What cannot be measured is reported with the reason.

    Values measured before a failure count, and are marked as incomplete.
    """
    (tmp_path / "trial.py").write_text(
        "import sys, pathlib\n"
        "place = pathlib.Path(next(word[12:] for word in sys.argv if word.startswith('--directory=')))\n"
        "def tried(gap):\n"
        "    place.mkdir(exist_ok=True)\n"
        "    (place / f'trial-{gap}.json').write_text('{\"gap_ms\": %s}' % gap)\n" + program
    )
    monkeypatch.setattr(power, "PROGRAM", "trial")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = await power.measure(tmp_path / "work", 2, lambda line: None)
    assert list(found.missing.values()) == ([missing] * 2 if missing else [])
    assert [item.n for item in found.figures] == ([measured] * 2 if measured else [])
    assert all(("broke off" in item.how) is item.is_incomplete is (measured == 1) for item in found.figures)
    assert all((item.planned, item.met) == (2, True) for item in found.figures)
