"""What operators type: words where they expect them, times, JSON from files, and names that do not exist."""

# ruff: noqa: E501 -- tables of cases, one a line

from __future__ import annotations

import io
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nodectl.cli.arguments import parse_json_object, parse_moment, parse_values
from nodectl.cli.exit_codes import ExitCode
from nodectl.cli.root import as_typed
from nodectl.client.connection.http import parse_problem
from nodestore.errors import Invalid, NotFound
from tests.support.cli import CallNodectl
from tests.support.fakes.masterd import FakeCluster, node_view

NOW = datetime(2026, 11, 30, 12, 0, 0).timestamp()


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        (["help"], ["--help"]),
        (["help", "node", "set"], ["node", "set", "--help"]),
        (["node", "help"], ["node", "--help"]),
        (["why", "help"], ["why", "help"]),
        (["state", "get", "help"], ["state", "get", "help"]),
        (["version"], ["--version"]),
        (["-e", "h", "version"], ["-e", "h", "--version"]),
        (["-o", "json", "node", "list"], ["node", "list", "-o", "json"]),
        (["-ojson", "node", "list"], ["node", "list", "-ojson"]),
        (["-c", "home", "--output=json", "status"], ["-c", "home", "status", "--output=json"]),
        (["-o", "json", "node", "set", "n1", "--", "-x"], ["node", "set", "n1", "-o", "json", "--", "-x"]),
        (["node", "list", "-o", "json"], ["node", "list", "-o", "json"]),
        (["-o"], ["-o"]),
        ([], []),
    ],
)
def test_words_where_people_type_them(typed: list[str], meant: list[str]) -> None:
    assert as_typed(typed) == meant


@pytest.mark.parametrize(
    ("text", "moment"),
    [
        ("90s", NOW - 90), ("15m", NOW - 900), ("1.5h", NOW - 5_400), ("3d", NOW - 3 * 86_400),
        ("02:30", datetime(2026, 11, 30, 2, 30).timestamp()), ("12:00:01", datetime(2026, 11, 29, 12, 0, 1).timestamp()),
        ("2026-11-29", datetime(2026, 11, 29).timestamp()), ("2026-11-29T02:30", datetime(2026, 11, 29, 2, 30).timestamp()),
        ("2026-11-30 02:30:00+0100", 1_796_002_200.0), ("2026-11-30T01:30:00Z", 1_796_002_200.0),
    ],
)  # fmt: skip
def test_times_in_the_past(text: str, moment: float) -> None:
    """An age, a time of day, which is the last one, or a date. What the history shows is understood."""
    assert parse_moment(text, NOW) == moment


@pytest.mark.parametrize("text", ["", "yesterday", "5", "-5m", "25:00", "2026-13-01", "5w"])
def test_what_is_no_time(text: str) -> None:
    with pytest.raises(Invalid, match="is not a time: give an age such as"):
        parse_moment(text, NOW)


def test_text_stays_text() -> None:
    """A value given with `--text` is text, also if it is valid JSON."""
    assert parse_values(["a=5"], [], ["b=5", "c=true", "d=", "e=x=y"]) == {
        "a": 5, "b": "5", "c": "true", "d": "", "e": "x=y",
    }  # fmt: skip
    for texts in (["a"], ["=1"], ["a=1", "a=2"]):
        with pytest.raises(Invalid):
            parse_values([], [], texts)
    with pytest.raises(Invalid, match="given twice"):
        parse_values(["a=1"], [], ["a=1"])


def test_arguments_come_from_the_line_a_file_or_stdin(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As an object, without repeated keys."""
    file = tmp_path / "args.json"
    file.write_bytes(b'\xef\xbb\xbf{"a": {"b": 1}}')
    assert parse_json_object('{"a": 1}', "args") == {"a": 1}
    assert parse_json_object(f"@{file}", "args") == {"a": {"b": 1}}
    for given in ("-", "@-"):
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b'{"c": null}')))
        assert parse_json_object(given, "args") == {"c": None}


@pytest.mark.parametrize(
    ("given", "complaint"),
    [
        ("[1]", "must be a JSON object"), ("{", "not JSON"), ('{"a": NaN}', "is not JSON: NaN"), ("@/no/such", "No such file"),
        ('{"a": {"b": 1, "b": 2}}', "the key 'b' is given twice"), ("[" * 100_000, "not JSON"),
    ],
)  # fmt: skip
def test_arguments_that_are_none(given: str, complaint: str) -> None:
    with pytest.raises(Invalid, match=f"args.*{complaint}"):
        parse_json_object(given, "args")


# --- names that do not exist ---


def test_unknown_names_in_filters_are_errors(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Not empty results; a group that has no nodes is one."""
    cluster.nodes = {name: node_view(name, groups=["top"]) for name in ("n1", "n2")}
    cluster.config["current"] = {"version": 1, "inventory": {"groups": {"top": {}, "empty": {}}}}
    for args in (["node", "list", "-g", "topp"], ["node", "watch", "n9"], ["history", "--node", "n9"],
                 ["history", "--node", "n9", "-f"]):  # fmt: skip
        ran = nodectl(*args)
        assert (ran.code, ran.out) == (ExitCode.NOT_FOUND, ""), args
        assert f"{args[-1] if 'topp' in args else 'n9'!r} in the configuration" in ran.err
    assert nodectl("node", "list", "-g", "empty", "-o", "name").out == ""
    assert nodectl("node", "list", "-g", "all", "-o", "name").out == "n1\nn2\n"


@pytest.mark.parametrize(
    "args", [["state", "get", "../nodes"], ["state", "get", "a//b"], ["state", "get", "a/."], ["node", "show", ".."],
             ["node", "logs", ".."], ["snapshot", "show", ".."], ["snapshot", "delete", "."], ["scene", "show", ".."]],
)  # fmt: skip
def test_dots_reach_no_other_part_of_the_api(cluster: FakeCluster, nodectl: CallNodectl, args: list[str]) -> None:
    """A path that climbs is refused before anything is sent."""
    before = list(cluster.leading.requests)
    assert nodectl(*args).code == ExitCode.USAGE
    asked = cluster.leading.requests[len(before) :]
    assert {request for request in asked if "/v1/leader" not in request and "/v1/health" not in request} <= {
        "GET /v1/masters", "GET /v1/cluster/watch", "GET /v1/events",
    }  # fmt: skip


# --- the history and the commands ---


def test_a_search_goes_on_until_all_is_searched(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """However little one answer covers; in either direction, up to the limit."""
    for number in range(1, 31):
        cluster.index = number
        cluster.record("node.set", {}, None, "ann" if number in (2, 17) else "bob", f"c{number}")
    cluster.searched_in_parts = 4
    assert nodectl("history", "--actor", "ann", "-o", "name").out == "17\n2\n"
    assert nodectl("history", "--actor", "ann", "--after", "0", "-o", "name").out == "2\n17\n"
    assert nodectl("history", "--actor", "ann", "-n", "1", "-o", "name").out == "17\n"
    assert nodectl("history", "--actor", "cid", "-o", "name").out == ""
    assert len(nodectl("history", "-n", "30", "-o", "json").json()["entries"]) == 30


def test_the_history_begins_at_a_time(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """A master of an earlier version does not know `since`: what is older is left out all the same."""
    for number in range(1, 6):
        cluster.index = number
        cluster.record("node.set", {}, None, "ann", f"c{number}")
        cluster.journal[-1]["time"] = NOW + number
    since = datetime.fromtimestamp(NOW + 3).isoformat()
    assert nodectl("history", "--since", since, "-o", "name").out == "5\n4\n3\n"
    line = nodectl("history", "-n", "1").out.splitlines()[1]
    assert datetime.fromisoformat(line[7:].strip()[:24]).timestamp() == NOW + 5


def test_commands_are_listed_with_their_arguments(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """What may be omitted is in brackets."""
    lines = nodectl("command", "--list").out.splitlines()
    shown: dict[str, str] = {line.split()[0]: line for line in lines}
    assert "node=text values=object" in shown["node.set"]
    assert "name=text [group=text]" in shown["scene.apply"]
    found: list[dict[str, Any]] = nodectl("command", "--list", "-o", "json").json()
    assert found[0]["arguments"]["required"] == ["node"]
    assert nodectl("command").code == ExitCode.USAGE


@pytest.mark.parametrize("raw", [b"405: Method Not Allowed", b'{"code": "invalid", "detail": "GET /v1/commands: no"}'])
def test_what_an_older_master_cannot_do_is_one_clear_line(raw: bytes) -> None:
    """`command --list` is such a request; the master knows the path, but not the method."""
    error = parse_problem(405, raw, "http://pc1:8401/v1/commands?consistency=local")
    assert (
        str(error) == "http://pc1:8401 runs an older release, which cannot do this (/v1/commands): upgrade that masterd"
    )
    assert isinstance(error, NotFound)


def test_the_table_of_a_document_masks_secrets(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """As `node show` and `state list` do; JSON holds the document as it is."""
    document = {"password": "hunter2", "colour": "red", "inner": {"api_key": "k3y"}, "argv": ["--token", "t0ken"]}
    cluster.documents["secret"] = {"index": 1, "document": document}
    for args in (["get", "secret"], ["list"]):
        shown = nodectl("state", *args).out
        assert "red" in shown
        assert not [secret for secret in ("hunter2", "k3y", "t0ken") if secret in shown]
    assert nodectl("state", "get", "secret", "-o", "json").json() == document
