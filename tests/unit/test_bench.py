"""What `make bench` says of its trials: figures, pictures, page."""

from __future__ import annotations

from pathlib import Path
from xml.etree import ElementTree

import pytest

from bench import nodes, power, report
from bench.figures import figure, percentile
from bench.picture import svg
from nodestore.jsonio import loads


def test_p99_of_times_is_on_the_slow_side() -> None:
    """Of a hundred trials the second slowest; the worst is the slowest."""
    found = figure("times", [float(number) for number in range(1, 101)], "ms", [2.0, 4.0], "bare")
    assert (found.median, found.p99, found.max, found.baseline) == (50.5, 99.0, 100.0, 3.0)
    assert found.ratio == pytest.approx(50.5 / 3)


def test_p99_of_rates_is_on_the_slow_side_too() -> None:
    """There the slow trials are the small ones."""
    found = figure("rates", [float(number) for number in range(1, 101)], "1/s")
    assert (found.p99, found.max) == (2.0, 1.0)


def test_a_percentile_is_a_value_that_was_measured() -> None:
    """Also of one trial."""
    assert percentile([7.0], 0.99) == 7.0
    with pytest.raises(ValueError, match="nothing was measured"):
        figure("none", [], "ms")


def test_what_a_node_costs_is_judged_beside_fewer_nodes() -> None:
    """Time and CPU of 1,000 by their number, beside those of 100; that the whole takes longer is no dearer node."""
    few = nodes.Watched(100, [10.0, 20.0], [0.2], {"leader": 300.0, "members": 500.0})
    many = nodes.Watched(1_000, [100.0, 200.0], [0.2], {"leader": 150.0, "members": 600.0})
    found = {item.name: item for item in nodes.watched(few, many, 1)}
    judged = {name: item.ratio for name, item in found.items() if item.goal == "at most 1.2x"}
    assert list(judged.values()) == pytest.approx([1.0, 0.5, 1.2])
    assert found["a scene to 1,000 watching nodes"].ratio == pytest.approx(10.0)


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


def test_page_and_data_hold_every_figure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The page names what was not measured; data are by name, with what other programs need."""
    monkeypatch.setattr(report, "PAGE", tmp_path / "benchmarks.md")
    monkeypatch.setattr(report, "PICTURES", tmp_path / "benchmarks")
    monkeypatch.setattr(report, "DATA", tmp_path / "bench.json")
    figures = [
        figure("one thing", [1.0, 2.0], "ms", [1.0], "bare", goal="at most 2x"),
        figure("another", [3.0], "MB"),
        figure("nothing", [0.0, 0.0], "GB"),
    ]
    report.write_page(figures, ["trials: few"], ["a note"], {"power": "no root | here"})
    report.write_data(figures)
    page = (tmp_path / "benchmarks.md").read_text("utf-8")
    assert "| one thing | 2 | 1.5 ms | 2 | 2 | bare: 1 ms | 1.50x | at most 2x |" in page
    assert "| power | | | | | not measured: no root / here | | |" in page
    assert [path.name for path in (tmp_path / "benchmarks").iterdir()] == ["one-thing.svg"]  # what is a distribution
    data = loads((tmp_path / "bench.json").read_bytes())
    assert data["one thing"] | {"n": 2, "median": 1.5, "p99": 2.0, "max": 2.0, "unit": "ms"} == data["one thing"]
    assert (data["one thing"]["baseline"], data["one thing"]["ratio"]) == (1.0, 1.5)


@pytest.mark.parametrize(
    ("program", "missing", "measured"),
    [
        ("print('as it is'); print('no root'); sys.exit(77)", "no root", 0),
        ("sys.exit('broke')", "it ended with code 1: broke", 0),
        ("tried(300.0), tried(310.0)", "", 2),
        ("tried(300.0), sys.exit('broke')", "", 1),
    ],
)
def test_power_is_measured_as_far_as_the_machine_can(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, program: str, missing: str, measured: int
) -> None:
    """What it could not do is told with the reason; what was measured before it broke off counts, and says so."""
    (tmp_path / "trial.py").write_text(
        "import sys, pathlib\n"
        "place = pathlib.Path(next(word[12:] for word in sys.argv if word.startswith('--directory=')))\n"
        "def tried(gap):\n"
        "    place.mkdir(exist_ok=True)\n"
        "    (place / f'trial-{gap}.json').write_text('{\"gap_ms\": %s}' % gap)\n" + program
    )
    monkeypatch.setattr(power, "PROGRAM", "trial")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    found = power.measure(tmp_path / "work", 2, lambda line: None)
    assert list(found.missing.values()) == ([missing] * 2 if missing else [])
    assert [item.n for item in found.figures] == ([measured] * 2 if measured else [])
    assert all(("broke off" in item.how) is (measured == 1) for item in found.figures)
