"""The report of a takeover: how one is selected, its phases, and its layout."""

from __future__ import annotations

import io
from typing import Any

import pytest

from nodectl.reports.takeover import Takeover, find_takeover, takeovers
from nodectl.reports.waterfall import BLOCKS, HASHES, TotalRow, bar, canvas, list_table, takeover_tables, waterfall
from nodectl.terminal.output import Output, display_width, plain_table
from nodestore.errors import Garbage, Invalid, NodectlError, NotFound
from tests.support.cli import InProcessNodectl
from tests.support.fakes.masterd import fake_cluster

NOW = 2_000.0
SILENT = {
    "heard": 0.0, "challenged": 0.16004, "taken_by_etcd": 0.16308, "suspected": 0.26011, "sent": 0.2602,
    "won": 0.26525, "caught_up": 0.26631, "serving": 0.27102, "first_answer": 0.27408,
}  # fmt: skip


def term(revision: int, master: str, cause: str, **more: Any) -> dict[str, Any]:
    told = {"epoch": 1, "since": 1_000.0 + revision, "why": f"because: {cause}", "phases": {}, "suspected_by": []}
    return {"revision": revision, "id": master, "cause": cause, **told, **more}


TERMS = [
    term(400, "m1", "expired", phases={"heard": 0.0, "sent": 2.0, "won": 2.5}),
    term(300, "m3", "silent", taken_from="m2", phases=SILENT, suspected_by=["m1", "m3"]),
    {"revision": 250, "problem": "not JSON"},
    term(200, "m2", "died", taken_from="m1"),
    term(100, "m1", "first"),
]


# --- which one ---


@pytest.mark.parametrize(
    ("wanted", "revision"),
    [(None, 400), ("-0", 400), ("-1", 300), ("-2", 200), ("300", 300), ("1.300", 300), ("100", 100)],
)
def test_a_takeover_is_named_by_its_place_or_its_term(wanted: str | None, revision: int) -> None:
    """The newest takeover is the default. The first term is no takeover, but can be selected."""
    assert find_takeover(TERMS, wanted, NOW).revision == revision


@pytest.mark.parametrize(
    ("wanted", "error", "says"),
    [
        ("-3", NotFound, "only 3 takeovers"),
        ("301", NotFound, "no term 301"),
        ("2.300", NotFound, "no term 2.300"),
        ("250", Garbage, "not JSON"),
        ("m1", Invalid, "is not a term"),
        ("1.2.3", Invalid, "is not a term"),
        ("9" * 5000, Invalid, "is not a term"),
    ],
)
def test_what_is_not_there_is_said(wanted: str, error: type[NodectlError], says: str) -> None:
    """A missing takeover is reported in one line."""
    with pytest.raises(error, match=says):
        find_takeover(TERMS, wanted, NOW)


def test_nobody_has_taken_over_yet() -> None:
    """A cluster on its first day."""
    with pytest.raises(NotFound, match="there has been no takeover yet: m1 has led since the beginning"):
        find_takeover(TERMS[-1:], None, NOW)
    with pytest.raises(NotFound, match="there has been no takeover yet"):
        find_takeover([], None, NOW)


def test_who_was_replaced_is_known_even_if_the_key_was_gone() -> None:
    """If `leader` was deleted, the report names the leader of the term before."""
    assert [item.taken_from for item in takeovers(TERMS, NOW)] == ["m3", "m2", "m1"]


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ([term(100, "m1", "first")], "the first term"),
        ([term(100, "m1", "died", since=NOW - 1)], "the times are not written yet"),
        ([term(101, "m2", "died", since=100.5), term(100, "m1", "died", since=100.0)], "m2 took over before"),
        ([term(100, "m1", "died")], "of an earlier version"),
    ],
)
def test_a_term_without_times_says_why(terms: list[dict[str, Any]], says: str) -> None:
    """The first one, a young one, a short one, or one of an older program."""
    found = find_takeover(terms, str(terms[-1]["revision"]), NOW)
    assert says in found.note
    assert found.whole_s is None
    assert says in plain_table(takeover_tables(found, 80, BLOCKS)[0])


# --- where the time went ---


def silent() -> Takeover:
    return find_takeover(TERMS, "300", NOW)


def test_the_steps_add_up() -> None:
    """Each with the time since the one before and since the beginning."""
    steps = silent().steps
    assert [step.phase for step in steps] == list(SILENT)
    assert [step.at_s for step in steps] == sorted(step.at_s for step in steps)
    assert sum(step.took_s for step in steps) == pytest.approx(silent().whole_s)
    assert silent().whole_s == SILENT["first_answer"]


def test_what_is_shown_adds_up_too() -> None:
    """To the last digit: rounding comes before subtracting."""
    lines = plain_table(takeover_tables(silent(), 100, BLOCKS)[1]).splitlines()
    took = [round(float(line.split(" ms")[0].split()[-1]) * 10) for line in lines[2:-1]]
    assert sum(took) == round(float(lines[-1].split(" ms")[0].split()[-1]) * 10) == 2741


def test_the_table_of_a_takeover() -> None:
    """As it is written into a pipe."""
    head, times = (plain_table(table) for table in takeover_tables(silent(), 80, BLOCKS))
    assert head.splitlines()[0].split(maxsplit=2) == ["TERM", "1.300", "m3 took over from m2"]
    assert "because: silent" in head
    assert "m1, m3" in head
    rows = times.splitlines()
    assert rows[0].split() == ["WHAT", "HAPPENED", "TOOK", "AT"]
    assert rows[1].startswith("last heartbeat from m2")
    assert rows[1].endswith("0.0 ms")
    assert rows[2].startswith("m3 challenges m2 through etcd      160.0 ms  160.0 ms  █")
    assert rows[-1].startswith("total")
    assert all(display_width(row) <= 80 for row in rows)


def test_a_phase_of_a_later_version_and_one_out_of_order_are_shown() -> None:
    """What is recorded is shown, whatever wrote it."""
    found = find_takeover([term(9, "m2", "died", phases={"sent": 0.2, "heard": -0.1, "brewed": 0.3})], "9", NOW)
    assert [(step.phase, step.took_s) for step in found.steps] == [("heard", 0.0), ("sent", 0.3), ("brewed", 0.1)]
    assert found.steps[-1].what == "brewed"
    assert found.whole_s == pytest.approx(0.4)


def test_a_long_one_is_told_in_seconds() -> None:
    """And one that took no time at all is drawn as well."""
    found = find_takeover([term(9, "m2", "expired", phases={"heard": 0.0, "sent": 3600.25})], "9", NOW)
    assert "3600.250 s" in plain_table(takeover_tables(found, 80, HASHES)[1])
    nothing = find_takeover([term(9, "m2", "died", phases={"sent": 0.0})], "9", NOW)
    assert "0.0 ms" in plain_table(takeover_tables(nothing, 80, HASHES)[1])


@pytest.mark.parametrize(
    ("begin", "length", "signs", "drawn"),
    [
        (0, 100, HASHES, "##########"),
        (50, 50, HASHES, "     #####"),
        (50, 25, BLOCKS, "     ██▌"),
        (0, 0.01, BLOCKS, "▏"),
        (99.9, 0.1, HASHES, "         #"),
        (100, 5, HASHES, "         #"),
        (10, 0, BLOCKS, ""),
    ],
)
def test_a_bar(begin: float, length: float, signs: str, drawn: str) -> None:
    """Begins where the one before ended, stays in its column, and shows whatever took any time."""
    assert bar(begin, length, 100, 10, signs) == drawn


def test_a_terminal_without_blocks_gets_hashes() -> None:
    """Bars are no reason to fail."""
    ascii_only = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    assert canvas(Output(stdout=ascii_only))[1] == HASHES
    assert canvas(Output(stdout=io.StringIO()))[1] == BLOCKS


def test_the_longest_step_stands_out() -> None:
    """On a terminal, by its colour."""
    table = waterfall(silent().steps, TotalRow("total", 0.27408), 80, BLOCKS)
    styles = [getattr(row[3], "style", "") for row in table.rows]
    assert [row[0].text for row, style in zip(table.rows, styles, strict=True) if style == "yellow"] == [  # type: ignore[union-attr]
        "m3 challenges m2 through etcd"
    ]


def test_the_list_compares_takeovers() -> None:
    """Newest first, each with the number by which it can be asked for."""
    rows = plain_table(list_table(takeovers(TERMS, NOW), 80, HASHES)).splitlines()
    assert [row.split()[0] for row in rows[1:]] == ["newest", "-1", "-2"]
    assert "2500.0 ms" in rows[1]
    assert rows[1].count("#") > rows[2].count("#") > 0
    assert rows[3].split()[-2:] == ["died", "?"]


# --- the command ---


async def test_why_shows_the_newest_takeover() -> None:
    """For people, for programs, and by name."""
    async with fake_cluster() as cluster:
        nodectl = InProcessNodectl(cluster.urls)
        cluster.lead("m2", "died")
        said = await nodectl("why")
        assert said.out.splitlines()[0].endswith("m2 took over from m1")
        assert "total" in said.out
        told = (await nodectl("why", "--json")).json
        assert told == (await nodectl("why", "1.30", "-o", "json")).json
        assert (told["cause"], told["master"], told["taken_from"], told["whole_s"]) == ("died", "m2", "m1", 0.11)
        assert (await nodectl("why", "-o", "name")).out == "1.30\n"


async def test_why_lists_and_finds_earlier_ones() -> None:
    """-1 is a takeover, not an option."""
    async with fake_cluster() as cluster:
        nodectl = InProcessNodectl(cluster.urls)
        none = await nodectl("why", "--list")
        assert (none.code, none.err) == (0, "there has been no takeover yet\n")
        cluster.lead("m2", "died")
        cluster.lead("m1", "switchover")
        assert [item["cause"] for item in (await nodectl("why", "--list", "--json")).json] == ["switchover", "died"]
        assert len((await nodectl("why", "-l")).out.splitlines()) == 3
        assert (await nodectl("why", "-1", "--local", "-o", "json")).json["cause"] == "died"


@pytest.mark.parametrize(
    ("args", "code"), [((), 3), (("77",), 3), (("-1",), 3), (("x",), 2), (("--nonsense",), 2), (("20", "--list"), 2)]
)
async def test_why_refuses_in_one_line(args: tuple[str, ...], code: int) -> None:
    """With the code that scripts go by."""
    async with fake_cluster() as cluster:
        said = await InProcessNodectl(cluster.urls)("why", *args)
        assert (said.code, said.out) == (code, "")
        assert said.err.startswith("error: ")
