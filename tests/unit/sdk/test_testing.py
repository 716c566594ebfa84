"""The harness for authors: an application in memory, its checks, and recorded journals."""

from __future__ import annotations

import json
import random
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from nodesdk import (
    App,
    ConfigChange,
    Conflict,
    Invalid,
    Inventory,
    NodectlError,
    NodeSeen,
    NotFound,
    Refused,
    Spec,
    Transaction,
    View,
)
from nodesdk.testing import (
    AppHarness,
    AppNonconformance,
    Outcome,
    check_app,
    check_replay,
    examine_app,
    read_journal,
    replay,
)


def lamps() -> App:
    """A node shows the document at its name; `lamps/failed` lists the nodes that failed."""
    app = App("lamps")

    @app.command(quick=True)
    def light(tx: Transaction, node: str, level: int) -> int:
        """Set the level of a lamp."""
        if level > 100:
            raise Refused("a lamp has 100 levels")
        tx.put(f"lamps/{node}", {"level": level, "since": tx.now})
        return level

    @app.command
    def blink(tx: Transaction, node: str) -> None:
        tx.act(node, "blink", {"times": 3}, expires_s=10)

    @app.command
    def broken(tx: Transaction) -> None:
        raise ZeroDivisionError("as asked")

    @app.desired
    def desired(config: Inventory, view: View, node: str) -> Spec | None:
        lamp = view.get(f"lamps/{node}")
        return None if lamp is None else Spec(driver="lamp", document={"level": lamp["level"]})

    @app.on_node_change
    def node(tx: Transaction, node: str, seen: NodeSeen) -> None:
        if seen.status is not None and seen.status.phase == "failed":
            if seen.status.error == "fire":
                raise ValueError(seen.status.error)
            tx.put("failed", {node: seen.status.error, "present": seen.present, **seen.status.actual})

    @app.on_config_change
    def config(tx: Transaction, change: ConfigChange) -> None:
        for node in change.removed:
            tx.delete(f"lamps/{node}")
        if "forbidden" in change.added:
            raise Conflict("this node is not wanted")

    return app


def test_commands_give_results_or_raise_their_errors() -> None:
    """A refusal leaves no trace; a failure has its cause."""
    harness = AppHarness(lamps(), ["n1", "n2"])
    assert harness.run("lamps.light", node="n1", level=30) == 30
    assert (harness.index, harness.generation("n1"), harness.generation("n2")) == (2, 2, 0)
    assert harness.spec("n1") == Spec(driver="lamp", document={"level": 30})
    assert harness.spec("n2") is None
    assert harness.documents == {"lamps/n1": {"level": 30, "since": harness.now}}
    with pytest.raises(Refused, match="100 levels"):
        harness.run("lamps.light", {"node": "n1"}, level=101)
    with pytest.raises(NodectlError, match="as asked") as raised:
        harness.run("lamps.broken")
    assert isinstance(raised.value.__cause__, ZeroDivisionError)
    with pytest.raises(NotFound, match=r"there is no command 'lamps\.dim'"):
        harness.run("lamps.dim")
    with pytest.raises(NotFound, match="no node 'n3'"):
        harness.spec("n3")
    assert harness.index == 2


def test_a_repeat_gets_the_first_result() -> None:
    """A repeated command is not run again. With other arguments it is no repeat, and is refused."""
    harness = AppHarness(lamps(), ["n1"])
    first = harness.send("lamps.light", {"node": "n1", "level": 1}, id="one")
    harness.advance(60)
    again = harness.send("lamps.light", {"node": "n1", "level": 1}, id="one")
    assert (first, again) == (Outcome(2, 1, False, None), Outcome(2, 1, True, None))
    assert isinstance(harness.send("lamps.light", {"node": "n1", "level": 2}, id="one").error, Conflict)
    assert harness.send("lamps.light", {"node": "n1", "level": 101}).error is not None
    harness.run("lamps.light", node="n1", level=3)
    assert harness.document("lamps/n1") == {"level": 3, "since": 1_000_000_060.0}


def test_documents_that_are_returned_are_copies() -> None:
    """A test cannot change the state by accident."""
    harness = AppHarness(lamps(), ["n1"])
    harness.run("lamps.light", node="n1", level=1)
    document = harness.document("lamps/n1")
    assert document is not None
    document["level"] = 2
    harness.documents["lamps/n1"]["level"] = 2
    assert harness.documents["lamps/n1"]["level"] == 1
    assert harness.document("lamps/n9") is None


def test_node_changes_reach_the_application() -> None:
    """With a status, or without one; what it raises is raised."""
    harness = AppHarness(lamps(), ["n1"])
    harness.node_changed("n1")
    assert harness.index == 1
    harness.node_changed("n1", present=False, phase="failed", error="no current", actual={"volts": 0})
    assert harness.document("failed") == {"n1": "no current", "present": False, "volts": 0}
    with pytest.raises(ValueError, match="fire"):
        harness.node_changed("n1", phase="failed", error="fire")
    with pytest.raises(NotFound):
        harness.node_changed("n2")
    with pytest.raises(TypeError, match="application silent has no function for changes of nodes"):
        AppHarness(App("silent"), ["n1"]).node_changed("n1")


def test_configurations_are_adopted_with_what_the_application_writes() -> None:
    """If it raises, the configuration is in force without its writes, as with masterd."""
    harness = AppHarness(lamps(), ["n1", "n2"])
    for node in ("n1", "n2"):
        harness.run("lamps.light", node=node, level=1)
    harness.apply_config({"nodes": {"n2": {}, "n3": {"labels": {"room": "1"}}}})
    assert sorted(harness.documents) == ["lamps/n2"]
    with pytest.raises(Conflict, match="not wanted"):
        harness.apply_config(["forbidden"])
    assert (harness.spec("forbidden"), sorted(harness.documents)) == (None, ["lamps/n2"])
    with pytest.raises(Invalid, match="inventory: "):
        harness.apply_config({"nodes": {"../up": {}}})
    harness.failover()


def test_actions_are_pending_until_they_are_done() -> None:
    """With the arguments and the time that the application gave."""
    harness = AppHarness(lamps(), ["n1"])
    harness.run("lamps.blink", node="n1")
    (action,) = harness.actions("n1")
    assert (action.index, action.name, action.args, action.expires) == (2, "blink", {"times": 3}, harness.now + 10)
    harness.complete_action("n1", {"blinked": 3})
    assert harness.actions("n1") == ()
    assert harness.journal[-1]["result"] == {"state": "done", "result": {"blinked": 3}, "error": None}
    with pytest.raises(NotFound):
        harness.complete_action("n1")


def test_after_a_takeover_everything_is_as_before() -> None:
    """Documents, generations and ids are kept, and commands continue."""
    harness = AppHarness(lamps(), ["n1"])
    harness.send("lamps.light", {"node": "n1", "level": 1}, id="one")
    before = harness.documents, harness.spec("n1"), harness.generation("n1"), harness.index
    harness.failover()
    assert (harness.documents, harness.spec("n1"), harness.generation("n1"), harness.index) == before
    assert harness.send("lamps.light", {"node": "n1", "level": 1}, id="one").repeated
    assert harness.run("lamps.light", node="n1", level=2) == 2


class Forgetful:
    """An application in class form with its own state, which a new leader does not have."""

    name = "forgetful"

    def __init__(self) -> None:
        self.count = 0

    def commands(self) -> dict[str, Any]:
        app = App("forgetful")

        @app.command
        def count(tx: Transaction) -> int:
            self.count += 1
            tx.put("count", {})
            return self.count

        return dict(app.commands())

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        view.get("count")
        return Spec(driver="d", document={"count": self.count})


def test_state_outside_of_documents_is_found_at_a_takeover() -> None:
    """The class is instantiated again, as in another process."""
    harness = AppHarness(Forgetful, ["n1"])
    harness.run("forgetful.count")
    with pytest.raises(AppNonconformance, match="a new leader derives other specs of n1"):
        harness.failover()


# --- checks ----------------------------------------------------------------------------------------------------------


def _use_lamps(harness: AppHarness) -> None:
    harness.run("lamps.light", node="n1", level=1)
    harness.run("lamps.blink", node="n2")
    harness.node_changed("n1", phase="failed", error="no current")
    harness.apply_config(["n2", "n3"])
    harness.run("lamps.light", node="n3", level=1)
    harness.advance(1)


def test_a_good_application_keeps_every_rule() -> None:
    """Refusals are not violations."""
    check_app(lamps(), _use_lamps, ["n1", "n2"], quick_s=1.0)


def _app(desired: Callable[[], Any], handler: Callable[[], Any]) -> App:
    app = App("a")

    @app.command
    def go(tx: Transaction) -> Any:
        tx.put("p", {})
        return handler()

    @app.command(quick=True)
    def slow(tx: Transaction) -> None:
        end = time.monotonic() + 0.02
        while time.monotonic() < end:
            pass

    @app.desired
    def spec(config: Inventory, view: View, node: str) -> Spec | None:
        view.get("p")
        return Spec(driver="d", document={"x": desired()})

    return app


_CALLS: list[int] = []


def _changes() -> int:
    _CALLS.append(1)
    return len(_CALLS)


def _unlike(made: Any) -> int:
    return 0 if made else 1


@pytest.mark.parametrize(
    ("desired", "handler", "broken"),
    [
        (lambda: 0, lambda: time.sleep(0), "handlers neither wait nor do I/O: a.go calls sleep"),
        (lambda: 0, lambda: Path(__file__).open().close(), "handlers neither wait nor do I/O: a.go calls open"),
        (lambda: 0, lambda: {1, 2}, "results are JSON: the result of a.go"),
        (lambda: 0, lambda: float("inf"), "results are JSON: the result of a.go"),
        (lambda: 0, lambda: [][1], "handlers raise only refusals: a.go raised IndexError"),
        (_changes, lambda: 0, "desired gives the same spec for the same documents: after config.adopt"),
        (lambda: _unlike(time.time()), lambda: 0, "no clock, no random numbers and no files: it calls time"),
        (lambda: _unlike(datetime.now()), lambda: 0, "it calls datetime.now"),
        (lambda: _unlike(random.random()), lambda: 0, "it calls Random.random"),
    ],
)  # fmt: skip
def test_each_way_of_breaking_the_contract_is_found(
    desired: Callable[[], Any], handler: Callable[[], Any], broken: str
) -> None:
    """Each violation is planted alone and reported."""

    def scenario(harness: AppHarness) -> None:
        harness.send("a.go")

    with pytest.raises(AppNonconformance) as raised:
        check_app(_app(desired, handler), scenario, ["n1"])
    assert broken in str(raised.value)


def test_a_quick_command_that_is_not_is_found() -> None:
    """A command declared quick that takes too long is reported; the other rules hold."""
    results = examine_app(_app(lambda: 0, lambda: 0), lambda harness: harness.run("a.slow") or harness.run("a.go"))
    assert [result.check for result in results if result.verdict == "failed"] == ["quick commands end within 2 ms"]


# --- recorded journals -----------------------------------------------------------------------------------------------


def _journal() -> list[dict[str, Any]]:
    harness = AppHarness(lamps(), ["n1", "n2"])
    _use_lamps(harness)
    return harness.journal


def test_the_same_application_replays_its_journal() -> None:
    """With node changes, configurations and actions in it."""
    check_replay(lamps(), _journal())


@pytest.mark.parametrize("shape", ["list", "history", "lines", "entries"])
def test_a_journal_is_read_in_each_of_its_shapes(tmp_path: Path, shape: str) -> None:
    """As nodectl prints it, as the API answers, and as it is in etcd; in either order."""
    commands, file = _journal(), tmp_path / "journal"
    text = {
        "list": json.dumps(commands[::-1]),
        "history": json.dumps({"entries": commands, "index": 9}),
        "lines": "\n".join(map(json.dumps, commands)) + "\n",
        "entries": "\n".join(json.dumps({"v": 1, "epoch": 1, "commands": [command]}) for command in commands),
    }[shape]
    file.write_text(text)
    assert [record.index for record in read_journal(file)] == list(range(1, len(commands) + 1))
    check_replay(lamps(), file)


@pytest.mark.parametrize(
    "text", ["no JSON", '[{"index": 1}]', '[{"index":2,"id":"a","actor":"a","time":0,"name":"x"}]']
)
def test_what_is_no_whole_journal_is_refused(tmp_path: Path, text: str) -> None:
    """An incomplete journal is refused with one line."""
    file = tmp_path / "journal"
    file.write_text(text)
    with pytest.raises(Invalid, match="journal"):
        read_journal(file)


def test_a_new_version_that_does_something_else_is_found() -> None:
    """The replay reports a command that is missing or refused, other results or writes, and other specs."""
    new = App("lamps")

    @new.command
    def light(tx: Transaction, node: str, level: int) -> int:
        if node == "n3":
            raise Refused("this lamp is forbidden")
        tx.put(f"lamps/{node}", {"level": level})
        return level + 1

    @new.desired
    def desired(config: Inventory, view: View, node: str) -> Spec | None:
        lamp = view.get(f"lamps/{node}")
        return None if lamp is None else Spec(driver="new", document=lamp)

    found = [str(difference) for difference in replay(new, _journal())]
    assert found == [
        "lamps.light (index 2): field 'result' differs from the recorded one",
        "lamps.light (index 2): field 'writes' differs from the recorded one",
        "lamps.light (index 2): the spec of n1 differs from the recorded one",
        found[3],
        "lamps.blink (index 3): the spec of n1 differs from the recorded one",
        "node.changed (index 4): the spec of n1 differs from the recorded one",
        "lamps.light (index 6): this lamp is forbidden",
        "lamps.light (index 6): the spec of n3 differs from the recorded one",
    ]
    assert found[3].startswith("lamps.blink (index 3): there is no command 'lamps.blink'")
    assert [difference.index for difference in replay(new, _journal(), same=False)] == [3, 6]
    with pytest.raises(AppNonconformance, match="this lamp is forbidden"):
        check_replay(new, _journal())


# --- pytest ----------------------------------------------------------------------------------------------------------


def test_the_fixture_is_the_harness(nodesdk_harness: type[AppHarness]) -> None:
    """By the entry point of the package: nothing is to be imported or declared."""
    assert nodesdk_harness is AppHarness


def test_the_plugin_imports_no_program() -> None:
    """It is loaded into every pytest of an environment that has nodectl."""
    code = "import nodesdk.pytest_plugin, sys; print(*sorted({name.partition('.')[0] for name in sys.modules}))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert "nodesdk" in loaded
    assert not loaded & {"masterd", "noded", "nodectl", "nodestore", "pydantic", "aiohttp", "grpc"}
