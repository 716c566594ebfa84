"""The command line: what it prints where, and which code it ends with."""

from __future__ import annotations

import io
import json
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from nodectl.__main__ import run
from nodectl.cli.arguments import parse_values
from nodectl.cli.exit_codes import ExitCode, explain
from nodectl.cli.root import COMMANDS, hoist
from nodestore import errors
from nodestore.errors import Invalid
from tests.support.cli import CallNodectl
from tests.support.fakes.masterd import FakeCluster, node_view

WALL = Path(__file__).parents[3] / "examples" / "wall" / "wall.yaml"
WAIT_S = 30.0


# --- output -----------------------------------------------------------------------------------------------------------


def test_nodes_are_listed_in_every_form(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Data alone on stdout, the same in all forms."""
    cluster.nodes = {name: node_view(name) for name in ("n1", "n2")}
    cluster.nodes["n2"] |= {"converged": False, "problem": "no noded", "alive": None}
    table = nodectl("node", "list")
    assert [line.split()[:2] for line in table.out.splitlines()] == [["NODE", "STATE"], ["n1", "ready"], ["n2", "down"]]
    assert "no noded" in table.out
    assert "\x1b" not in table.out
    assert table.err == ""
    assert [view["name"] for view in nodectl("node", "list", "-o", "json").json()] == ["n1", "n2"]
    assert [view["name"] for view in yaml.safe_load(nodectl("node", "list", "-o", "yaml").out)] == ["n1", "n2"]
    assert nodectl("node", "list", "-o", "name").out == "n1\nn2\n"
    assert nodectl("node", "list", "-g", "none", "-o", "name").out == ""


def test_a_node_is_shown(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """All that is known of it."""
    cluster.nodes["n1"] = node_view("n1", position=[0, 2], document={"colour": "red"})
    ran = nodectl("node", "show", "n1")
    assert "row 0, column 2" in ran.out
    assert "colour=red" in ran.out


def test_setting_values_merges_them(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """People get a sentence on stderr, programs the result on stdout."""
    cluster.nodes["n1"] = node_view("n1", document={"old": 1, "keep": True})
    ran = nodectl("node", "set", "n1", "colour=red", "size=5", "text=", "old-", "-o", "json")
    assert ran.code == 0
    assert ran.json()["result"]["document"] == {"keep": True, "colour": "red", "size": 5, "text": ""}
    ran = nodectl("node", "set", "n1", "size=6", "--unset", "keep")
    assert (ran.out, ran.err) == ("", "n1 changed (index 2)\n")
    assert cluster.executed[-1]["args"]["values"] == {"size": 6, "keep": None}


@pytest.mark.parametrize(
    ("values", "unset", "expected"),
    [
        (["a=1", "b=1.5", "c=true", "d=null"], [], {"a": 1, "b": 1.5, "c": True, "d": None}),
        (['a={"x": [1]}', 'b="5"', "c=red", "d=a=b"], [], {"a": {"x": [1]}, "b": "5", "c": "red", "d": "a=b"}),
        (["a=", "b-"], ["c"], {"a": "", "b": None, "c": None}),
        (["a=NaN", "b={", "c=01"], [], {"a": "NaN", "b": "{", "c": "01"}),
    ],
)
def test_values_are_json_or_text(values: list[str], unset: list[str], expected: dict[str, Any]) -> None:
    """A value that is not JSON is a string, so that no double quoting is needed."""
    assert parse_values(values, unset) == expected


@pytest.mark.parametrize("values", [[], ["novalue"], ["=x"], ["-"], ["a=1", "a=2"], ["a=1", "a-"]])
def test_values_that_make_no_sense_are_refused(values: list[str]) -> None:
    """In one sentence that quotes them."""
    with pytest.raises(Invalid):
        parse_values(values, [])


def test_a_log_is_shown_with_its_control_characters_escaped(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Except for tabs and the ends of lines; -o json has the text as it is, in one object for each piece."""
    cluster.log = [{"text": "a\tb\x1b[31m\n"}, {"text": "c\u202e\n", "note": "lines may be missing"}]
    shown = nodectl("node", "logs", "n1")
    assert (shown.code, shown.out) == (0, "a\tb\\x1b[31m\nc\\u202e\n")
    assert shown.err == "(n1: lines may be missing)\n"
    pieces = nodectl("node", "logs", "n1", "-n", "7", "-o", "json").out.splitlines()
    assert [json.loads(piece)["text"] for piece in pieces] == ["a\tb\x1b[31m\n", "c\u202e\n"]


def test_a_node_that_cannot_be_asked_for_its_log_is_unavailable(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """At once, without further attempts."""
    cluster.log = [{"code": "node_unavailable"}, {"text": "never"}]
    refused = nodectl("node", "logs", "n1")
    assert (refused.code, refused.out) == (5, "")
    assert "error: node n1: node_unavailable" in refused.err
    assert "nodectl node show" in refused.err


def test_leader_as_json(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """`-o json` prints the leader for scripts."""
    found = nodectl("master", "leader", "-o", "json").json()
    assert found["id"] == "m1"
    assert found["url"] == cluster.masters["m1"].url
    assert found["term"] == {"epoch": 1, "revision": 20}
    assert nodectl("master", "leader", "-o", "name").out == "m1\n"
    assert nodectl("master", "leader").out.splitlines()[0].split() == ["LEADER", "TERM", "HOST", "URL", "SINCE", "WHY"]


def test_masters_switch_over(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """With --wait until the new one answers."""
    ran = nodectl("master", "switchover", "m2", "--wait", "-o", "json")
    assert (ran.code, ran.json()["to"]) == (0, "m2")
    assert [line.split()[:2] for line in nodectl("master", "list").out.splitlines()][2] == ["m2", "leader"]
    assert nodectl("master", "switchover", "m9").code == ExitCode.NOT_FOUND


def test_takeover_is_paused_and_resumed(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The reason is kept for others to see."""
    assert nodectl("master", "pause", "--reason", "new cables", "-o", "json").json()["reason"] == "new cables"
    assert "new cables" in nodectl("status").out
    assert nodectl("master", "resume").err == "automatic takeover is resumed\n"
    assert nodectl("master", "resume").err == "automatic takeover was not paused\n"


def test_history_is_read(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The history shows actor and command, newest first."""
    cluster.nodes["n1"] = node_view("n1")
    nodectl("node", "set", "n1", "a=1")
    nodectl("node", "set", "n1", "a=2")
    lines = nodectl("history").out.splitlines()
    assert lines[0].split() == ["INDEX", "TIME", "ACTOR", "COMMAND", "ARGUMENTS", "CONFIG", "TERM"]
    assert [line.split()[0] for line in lines[1:]] == ["2", "1"]
    assert nodectl("history", "-o", "name").out == "2\n1\n"


def test_history_says_which_configuration_was_in_force(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """`v3`; nothing where none was. In JSON as a number."""
    cluster.nodes["n1"] = node_view("n1")
    nodectl("node", "set", "n1", "a=1")
    cluster.config["adopted"] = {"version": 3, "index": 1}
    nodectl("node", "clear", "n1")
    newest, oldest = nodectl("history").out.splitlines()[1:]
    assert "  v3  " in newest
    assert "v3" not in oldest
    found = nodectl("history", "--command", "node.clear", "-o", "json").json()["entries"]
    assert [(entry["name"], entry["config_version"]) for entry in found] == [("node.clear", 3)]


# --- actions ----------------------------------------------------------------------------------------------------------


def test_an_action_is_followed_until_every_node_has_done_it(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """One line is printed for each node, also across a lost connection. Arguments are JSON or text."""
    for name in ("n1", "n2"):
        cluster.nodes[name] = node_view(name)
        cluster.outcomes[name] = {"state": "done", "result": {"took": 2}, "error": None}
    cluster.leading.break_after = 1
    ran = nodectl("node", "act", "--group", "all", "identify", "--arg", "seconds=5", "--arg", "colour=red")
    assert ran.code == 0
    assert [line.split()[:3] for line in ran.out.splitlines()[1:]] == [
        ["n1", "identify", "done"], ["n2", "identify", "done"],
    ]  # fmt: skip
    assert "took=2" in ran.out
    assert cluster.executed[-1]["args"] == {
        "group": "all", "action": "identify", "args": {"seconds": 5, "colour": "red"}, "expires_s": 60,
    }  # fmt: skip


def test_an_action_that_is_not_done_everywhere_fails(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The exit code is 1, and the result of each node is printed."""
    cluster.nodes = {name: node_view(name) for name in ("n1", "n2")}
    cluster.outcomes["n1"] = {"state": "done", "result": None, "error": None}
    cluster.outcomes["n2"] = {"state": "failed", "result": None, "error": "no such action"}
    ran = nodectl("node", "act", "-g", "all", "identify", "-o", "json")
    assert ran.code == ExitCode.FAILED
    assert [(node["node"], node["state"], node["error"]) for node in ran.json()["nodes"]] == [
        ("n1", "done", None), ("n2", "failed", "no such action"),
    ]  # fmt: skip


def test_an_action_without_a_result_times_out(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The exit code is 7. The nodes without a result are named, and the known results are printed."""
    cluster.nodes = {name: node_view(name) for name in ("n1", "n2")}
    cluster.outcomes["n1"] = {"state": "done", "result": None, "error": None}
    ran = nodectl("node", "restart", "--group", "all", "--timeout", "3")
    assert ran.code == ExitCode.TIMED_OUT
    assert "n2" in ran.err
    assert [line.split()[2] for line in ran.out.splitlines()[1:]] == ["done", "pending"]
    ran = nodectl("node", "restart", "n2", "--no-wait", "--expires", "5m")
    assert ran.code == 0
    assert cluster.executed[-1]["args"] == {"node": "n2", "action": "restart", "args": {}, "expires_s": 300}
    assert "restart requested (index 3)" in ran.err


def test_a_reboot_is_asked_for_twice(
    cluster: FakeCluster, nodectl: CallNodectl, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a terminal, --yes is required. If the question is answered with no, nothing is rebooted."""
    cluster.nodes["n1"] = node_view("n1")
    cluster.outcomes["n1"] = {"state": "done", "result": None, "error": None}
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    ran = nodectl("node", "reboot", "n1")
    assert ran.code == ExitCode.USAGE
    assert "--yes" in ran.err
    terminal = io.StringIO("n\n")
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stdin", terminal)
    assert nodectl("node", "reboot", "n1").code == ExitCode.FAILED
    assert cluster.executed == []
    assert nodectl("node", "reboot", "n1", "--yes").code == 0
    assert cluster.executed[-1]["args"]["action"] == "reboot"


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["act", "n1"], "NODE ACTION"),
        (["act", "n1", "restart", "-g", "all"], "NODE ACTION"),
        (["act", "n1", "x", "--arg", "y"], "'y' is not KEY=VALUE"),
        (["act", "n1", "x", "--expires", "soon"], "'--expires': 'soon' is not a time"),
        (["restart"], "either a node or --group"),
        (["reboot", "n1", "-g", "all", "--yes"], "either a node or --group"),
    ],
)
def test_invalid_actions_are_not_sent(
    args: list[str], complaint: str, cluster: FakeCluster, nodectl: CallNodectl
) -> None:
    """Invalid arguments end with one line that names what is expected."""
    ran = nodectl("node", *args)
    assert ran.code == ExitCode.USAGE
    assert complaint in ran.err
    assert cluster.executed == []


def test_scenes(cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path) -> None:
    """Saved from a file, listed, shown in the file's own form, applied, deleted."""
    cluster.nodes["n1"] = node_view("n1")
    scene = WALL.parent / "scenes" / "sunrise.yaml"
    assert nodectl("scene", "save", "sunrise", "--file", str(scene)).code == 0
    assert "The sun comes up" in nodectl("scene", "list").out
    shown = yaml.safe_load(nodectl("scene", "show", "sunrise", "-o", "yaml").out)
    assert shown["nodes"] == yaml.safe_load(scene.read_text())["nodes"]
    assert nodectl("scene", "apply", "sunrise", "--wait").code == 0
    assert nodectl("scene", "show", "nope").code == ExitCode.NOT_FOUND
    assert nodectl("scene", "delete", "sunrise").code == 0
    bad = tmp_path / "bad.yaml"
    bad.write_text("nodes:\n  n1: red\nnode: {}\n")
    ran = nodectl("scene", "save", "bad", "-f", str(bad))
    assert ran.code == ExitCode.USAGE
    assert f"{bad}:2: nodes.n1: expected fields (key: value), got 'red'" in ran.err
    assert f"{bad}:3: node: this field is not known; did you mean 'nodes'?" in ran.err


def test_status_says_what_is_wrong(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """And with --check the exit code does too."""
    assert nodectl("status", "--check").err == "no problems\n"
    cluster.problems = ["master m3: down"]
    ran = nodectl("status", "--check")
    assert (ran.code, "master m3: down" in ran.out) == (1, True)
    assert nodectl("status", "-o", "name").out == "master m3: down\n"


def test_status_without_a_leader_is_what_another_master_knows(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """Without a leader, `status` shows what another master knows, and exits with code 5."""
    cluster.lead(None)
    ran = nodectl("status")
    assert ran.code == 5
    assert "there is no leader" in ran.err
    assert "no leader answers" in ran.err
    assert "none" in ran.out


# --- configuration ----------------------------------------------------------------------------------------------------


def test_a_configuration_is_checked_compared_and_applied(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path
) -> None:
    """Once applied there is no difference, and applying it again changes nothing."""
    assert nodectl("config", "validate", str(WALL)).code == 0
    ran = nodectl("config", "apply", str(WALL), "--wait", "-o", "json")
    assert ran.json()["version"] == 1
    assert "add node n9" in ran.err
    assert nodectl("config", "diff", str(WALL), "--check").err.endswith("no differences\n")
    assert "nothing to do: version 1 is the same" in nodectl("config", "apply", str(WALL)).err
    basis, _, shown = nodectl("config", "show").out.partition("\n")
    assert basis.startswith("# nodectl: based on version 1 (")
    assert shown == WALL.read_text()
    changed = tmp_path / "wall.yaml"
    changed.write_text(WALL.read_text().replace("10.0.0.19", "10.0.0.99"))
    ran = nodectl("config", "diff", str(changed), "--check")
    assert ran.code == 1
    assert [line for line in ran.out.splitlines() if line.startswith(("+ ", "- "))] != []
    assert nodectl("config", "apply", str(changed), "--dry-run").code == 0
    assert cluster.config["current"]["version"] == 1


def test_a_configuration_changed_meanwhile_is_a_conflict(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """If the configuration has changed since it was read, nothing is overwritten."""
    nodectl("config", "apply", str(WALL))
    ran = nodectl("config", "apply", str(WALL), "--expect-version", "7")
    assert ran.code == ExitCode.CONFLICT
    assert "version 1 is current, not 7" in ran.err


def test_a_rejected_configuration_fails_the_wait(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The wait ends with the leader's reason."""
    cluster.adopts = False
    cluster.config["rejected"] = {"version": 1, "error": "no such driver"}
    ran = nodectl("config", "apply", str(WALL), "--wait")
    assert (ran.code, "no such driver" in ran.err) == (ExitCode.FAILED, True)


def test_a_bad_file_is_refused_before_anything_is_sent(
    cluster: FakeCluster, nodectl: CallNodectl, tmp_path: Path
) -> None:
    """With the line, on stderr, and nothing on stdout."""
    bad = tmp_path / "wall.yaml"
    bad.write_text("nodes:\n  n3: {position: left}\n")
    for verb in ("validate", "diff", "apply"):
        ran = nodectl("config", verb, str(bad))
        assert ran.code == ExitCode.USAGE
        assert ran.out == ""
        assert f"{bad}:2: nodes.n3.position: expected two whole numbers [row, column], got 'left'" in ran.err
    assert cluster.config["current"] is None


# --- waiting ----------------------------------------------------------------------------------------------------------


def test_wait_ends_when_the_node_has_done_it(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The effect may take a while."""
    cluster.nodes["n1"] = node_view("n1", converged=False, problem="applying")
    timer = threading.Timer(0.2, lambda: cluster.nodes["n1"].update(converged=True))
    timer.start()
    assert nodectl("node", "set", "n1", "a=1", "--wait").code == 0
    timer.join()


def test_wait_times_out_and_says_what_is_missing(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """The change remains. The exit code shows that only the wait has timed out."""
    cluster.nodes["n1"] = node_view("n1", converged=False, problem="no noded is connected")
    ran = nodectl("node", "set", "n1", "a=1", "--wait", "--timeout", "0.2")
    assert ran.code == ExitCode.TIMED_OUT
    assert "n1: no noded is connected" in ran.err
    assert cluster.nodes["n1"]["document"] == {"a": 1}


def test_wait_ends_at_once_with_the_error_of_a_node_that_failed(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """It names the node, and does not use up the time; the failure of an earlier generation does not count."""
    cluster.nodes["n1"] = node_view("n1", converged=False, problem="failed: no driver named x is installed")
    status = {"phase": "failed", "error": "no driver named x is installed", "observed_generation": 6}
    cluster.nodes["n1"].update(desired={"generation": 7, "hash": ""}, status=status)
    ran = nodectl("node", "set", "n1", "a=1", "--wait", "--timeout", "0.2")
    assert ran.code == ExitCode.TIMED_OUT
    status["observed_generation"] = 7
    ran = nodectl("node", "set", "n1", "a=1", "--wait", "--timeout", "10m")
    assert ran.code == ExitCode.FAILED
    assert "node n1 cannot reach its desired state: no driver named x is installed" in ran.err


def test_a_configuration_is_waited_for_on_the_nodes_too(cluster: FakeCluster, nodectl: CallNodectl) -> None:
    """An adopted version is not yet in effect; the time that is left is that of both waits."""
    cluster.nodes["n2"] = node_view("n2", converged=False, problem="applying: the program starts")
    cluster.nodes["n3"] = node_view("n3", converged=False, problem="no noded has ever reported", alive=None)
    ran = nodectl("config", "apply", str(WALL), "--wait", "--timeout", "0.3")
    assert ran.code == ExitCode.TIMED_OUT
    assert "n2: applying: the program starts" in ran.err
    assert "warning: not waited for, because no noded is connected: n3" in ran.err
    cluster.nodes["n2"].update(status={"phase": "failed", "error": "no argv", "observed_generation": 1})
    ran = nodectl("config", "apply", str(WALL), "--wait", "--timeout", "10m")
    assert ran.code == ExitCode.FAILED
    assert "node n2 cannot reach its desired state: no argv" in ran.err


# --- errors and exit codes --------------------------------------------------------------------------------------------


def test_every_error_has_its_documented_code() -> None:
    """The table agrees with the errors themselves and with docs/cli.md."""
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, errors.NodectlError)]
    for kind in kinds:
        error = kind(7) if kind is errors.Compacted else kind("why")
        assert explain(error).code == kind.exit_code
    documented = (WALL.parents[2] / "docs" / "cli.md").read_text(encoding="utf-8")
    for code in ExitCode:
        assert f"| {code.value} |" in documented


@pytest.mark.parametrize(
    ("status", "code", "expected"),
    [(404, "not_found", 3), (409, "conflict", 4), (403, "denied", 6), (422, "refused", 1), (400, "invalid", 2)],
)
def test_refusals_end_with_their_code(
    cluster: FakeCluster, nodectl: CallNodectl, status: int, code: str, expected: int
) -> None:
    """Each refusal ends with its exit code and one line with the reason."""
    cluster.nodes["n1"] = node_view("n1")
    cluster.refuse["node.set"] = (status, code, "because of this")
    ran = nodectl("node", "set", "n1", "a=1")
    assert ran.code == expected
    assert ran.err.splitlines()[0] == "error: because of this"
    assert ran.out == ""


def test_nobody_there_is_unavailable(capsys: pytest.CaptureFixture[str]) -> None:
    """The address that was tried is named."""
    code = run(["-e", "http://127.0.0.1:1", "--request-timeout", "2", "node", "list"])
    err = capsys.readouterr().err
    assert code == ExitCode.UNAVAILABLE
    assert "http://127.0.0.1:1" in err
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("args", "complaint"),
    [
        (["nod"], "did you mean 'node'"),
        (["node", "lst"], "lst"),
        (["node", "set"], "NODE"),
        (["node", "list", "--nope"], "--nope"),
        (["node", "list", "-o", "xml"], "xml"),
        (["node", "list"], "no cluster is selected: give --endpoints"),
        (["node", "list", "-e", "h:2379"], "cluster's name"),
        (["node", "list", "-e", "nonsense"], "is not host:port"),
        (["node", "list", "-c", "home"], "No such file"),
        (["node", "list", "-e", "h:1", "--cluster", "c", "--user", "u"], "belong together"),
        (["--request-timeout", "soon", "status"], "--request-timeout"),
        (["--request-timeout", "2h", "status"], "'2h' is not between 100ms and 1h"),
    ],
)
def test_wrong_usage_is_one_clear_message(args: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Exit code 2, and nothing on stdout."""
    assert run(args) == ExitCode.USAGE
    out, err = capsys.readouterr()
    assert complaint in err
    assert out == ""
    assert len(err.splitlines()) <= 3


def test_internal_errors_show_no_traceback(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """An internal error prints its type and how to get the traceback."""
    import nodectl.inventory.file

    def broken(path: Path, **_: Any) -> None:
        raise ZeroDivisionError("oops")

    monkeypatch.setattr(nodectl.inventory.file, "load_inventory", broken)
    assert run(["config", "validate", "x"]) == ExitCode.FAILED
    err = capsys.readouterr().err
    assert err.startswith("error: internal error: ZeroDivisionError: oops")
    monkeypatch.setenv("NODECTL_DEBUG", "1")
    with pytest.raises(ZeroDivisionError):
        run(["config", "validate", "x"])


def test_interruption_is_quiet(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Ctrl-C ends the command with the exit code that shells expect."""
    import nodectl.inventory.file

    def interrupted(path: Path, **_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(nodectl.inventory.file, "load_inventory", interrupted)
    assert run(["config", "validate", "x"]) == ExitCode.INTERRUPTED
    assert capsys.readouterr() == ("", "")


@pytest.mark.skipif(sys.platform == "win32", reason="needs a shell's pipe")
def test_a_closed_pipe_is_no_error() -> None:
    """`nodectl ... | head` ends without an error message."""
    script = f'"{sys.executable}" -m nodectl --help | true; echo "${{PIPESTATUS[0]}}"'
    done = subprocess.run(["bash", "-c", script], capture_output=True, text=True, timeout=WAIT_S, check=True)
    assert done.stderr == ""


# --- start ------------------------------------------------------------------------------------------------------------

HEAVY = {"grpc", "aiohttp", "pydantic", "rich", "yaml", "asyncio", "nodestore.schema.models", "nodectl.client"}


@pytest.mark.parametrize("args", [["--help"], ["--version"]])
def test_help_loads_nothing_heavy(args: list[str]) -> None:
    """A small PC must not load etcd, HTTP and models to print help."""
    code = (
        "import sys; from nodectl.__main__ import run; code = run(sys.argv[1:]); "
        "print(*sorted(sys.modules), file=sys.stderr); sys.exit(code)"
    )
    command = [sys.executable, "-c", code, *args]
    done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=True)
    loaded = set(done.stderr.split())
    assert loaded & HEAVY == set()
    assert not {name for name in loaded if name.startswith("nodectl.cli.commands.")}
    assert done.stdout


def test_help_of_every_command_works(capsys: pytest.CaptureFixture[str]) -> None:
    """And the root names all that is there."""
    assert run(["--help"]) == 0
    listed = capsys.readouterr().out
    for noun in ("status", "node", "scene", "config", "master", "history", "etcd"):
        assert COMMANDS[noun].split()[0] in listed
        assert run([noun, "--help"]) == 0
        assert "Usage:" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("args", "expected"),
    [
        (["node", "list", "-c", "home"], ["-c", "home", "node", "list"]),
        (["node", "list", "--cluster=x", "-o", "json"], ["--cluster=x", "node", "list", "-o", "json"]),
        (["node", "set", "n1", "--", "-e", "x"], ["node", "set", "n1", "--", "-e", "x"]),
        (["node", "list", "-e"], ["node", "list", "-e"]),
    ],
)
def test_global_options_may_stand_anywhere(args: list[str], expected: list[str]) -> None:
    """Global options are accepted before and after the command."""
    assert hoist(args) == expected
