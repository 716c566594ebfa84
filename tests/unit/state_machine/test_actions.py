"""One-shot actions in the journal: requested, pending and closed, and how each one ends."""

from __future__ import annotations

from typing import Any

import pytest

from masterd.replication.images import Image, encode_image
from masterd.state_machine.actions import ACTION_DONE, NODE_ACT, closure_of
from masterd.state_machine.batch import CommandRequest
from masterd.state_machine.views import actions_view, changes_of
from masterd.term.node_events import closing_request
from nodestore.errors import Conflict, Invalid, NotFound
from nodestore.schema.keys import Keys
from nodestore.schema.models import Acted, Action, ActionResult, Actions, Inventory, Term, decode
from tests.support.images import decode_image
from tests.support.toy_app import Line, inventory, replayed, same

KEYS, TERM = Keys("c"), Term(1, 7)


def act(line: Line, **args: Any) -> Any:
    return line.one(NODE_ACT, **{"node": "n1", "action": "blink", **args})


def test_an_action_pends_until_it_is_closed() -> None:
    """A pending action is in the state, in replicas and in snapshots until it is closed."""
    line = Line("n1", "n2")
    index = act(line, args={"times": 3}).index
    assert act(line, node="n2").index == index + 1
    (pending,) = line.state.actions["n1"]
    assert (pending.index, pending.name, pending.args, pending.expires) == (index, "blink", {"times": 3}, 1060.0)
    assert same(replayed(line), line.state)
    image = decode_image(list(encode_image(Image.of(line.state))), "s")
    assert image.to_state().actions == line.state.actions
    ending = closure_of("n1", pending, acted(index, "done", {"on": 3}), epoch=1, now=0.0)
    assert ending is not None
    line.run(closing_request(ending))
    assert list(line.state.actions) == ["n2"]
    assert same(replayed(line), line.state)


def test_the_end_of_an_action_is_in_the_history_once() -> None:
    """The end of an action is recorded once with its result, and closing it again changes nothing."""
    line = Line("n1")
    index = act(line).index
    ending = closure_of("n1", line.state.actions["n1"][0], acted(index, "failed", error="no lamp"), epoch=1, now=0.0)
    assert ending is not None
    first, again = line.run(closing_request(ending), closing_request(ending))
    assert first is not None
    assert again is not None
    assert (first.result, again.repeated) == ({"state": "failed", "result": None, "error": "no lamp"}, True)
    assert line.state.ids[f"{ACTION_DONE}-n1-1-{index}"].index == first.index


def test_a_group_acts_in_one_command() -> None:
    """A command for a group requests one action for each node, all with the command's index."""
    line = Line()
    nodes: dict[str, Any] = {"n1": {}, "n2": {}, "n3": {}}
    line.adopt(Inventory.model_validate({"nodes": nodes, "groups": {"left": {"nodes": ["n1", "n2"]}}}))
    outcome = line.one(NODE_ACT, group="left", action="blink")
    assert outcome.result == {"action": "blink", "nodes": ["n1", "n2"]}
    assert {node: [action.index for action in pending] for node, pending in line.state.actions.items()} == {
        "n1": [outcome.index], "n2": [outcome.index],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("args", "kind", "says"),
    [
        ({"node": "n9"}, NotFound, "there is no node 'n9'"),
        ({"group": "left"}, Invalid, "give either `node` or `group`"),
        ({"node": None, "group": "left"}, NotFound, "there is no group 'left'"),
        ({"action": "a/b"}, Invalid, "action name 'a/b' is not allowed"),
        ({"expires_s": 0}, Invalid, "expires_s"),
        ({"expires_s": 1e9}, Invalid, "at most 604800 s"),
        ({"args": {"x": "y" * 5000}}, Invalid, "at most 4096 bytes"),
    ],
)
def test_what_cannot_be_asked_for(args: dict[str, Any], kind: type[Exception], says: str) -> None:
    """An invalid request is refused with a message, and no action is pending."""
    line = Line("n1")
    outcome = act(line, **args)
    assert isinstance(outcome.error, kind)
    assert says in str(outcome.error)
    assert not line.state.actions


def test_what_a_node_has_to_do_is_bounded() -> None:
    """A node has at most 16 pending actions, within one batch too."""
    line = Line("n1")
    asked = [line.request(NODE_ACT, node="n1", action="blink") for _ in range(17)]
    outcomes = line.run(*asked)
    assert [outcome.error is None for outcome in outcomes if outcome] == [True] * 16 + [False]
    assert isinstance(outcomes[-1] and outcomes[-1].error, Conflict)
    assert len(line.state.actions["n1"]) == 16


def test_a_node_that_is_removed_has_nothing_to_do() -> None:
    """Removing a node ends its pending actions, also if it is added again."""
    line = Line("n1", "n2")
    act(line)
    line.adopt(inventory("n2"))
    assert not line.state.actions
    line.adopt(inventory("n1", "n2"))
    assert not line.state.actions
    assert same(replayed(line), line.state)


def test_the_view_follows() -> None:
    """The view is written with the command and deleted with the end of the last action."""
    line = Line("n1")
    batch = line.batch()
    batch.execute(line.request(NODE_ACT, node="n1", action="blink"))
    changes = changes_of(KEYS, TERM, batch.records, batch.changed_specs, batch.pending)
    line.commit(batch)
    raw = changes[KEYS.actions_of("n1")]
    assert raw == actions_view(TERM, line.state.actions["n1"])
    assert raw is not None
    assert [action.name for action in decode(Actions, raw, "view").pending] == ["blink"]
    batch = line.batch()
    close = CommandRequest(
        "x", ACTION_DONE, {}, "n1", internal_handler=lambda _: None, closes={"n1": (line.state.actions["n1"][0].index,)}
    )
    batch.execute(close)
    assert changes_of(KEYS, TERM, batch.records, batch.changed_specs, batch.pending) == {KEYS.actions_of("n1"): None}


def acted(index: int, state: Any, result: Any = None, error: str | None = None, epoch: int = 1) -> Acted:
    found = ActionResult(index=index, name="blink", state=state, result=result, error=error, nonce="n")
    return Acted(node="n1", epoch=epoch, floor=index, results=(found,))


@pytest.mark.parametrize(
    ("acted", "now", "epoch", "expected"),
    [
        (None, 99.0, 1, None),
        (None, 101.0, 1, ("expired", True)),
        (acted(5, "started"), 101.0, 1, None),
        (acted(5, "done"), 101.0, 1, ("done", False)),
        (acted(5, "lost"), 50.0, 1, ("lost", False)),
        (acted(4, "done"), 101.0, 1, ("expired", True)),
        (acted(6, "done"), 50.0, 1, ("lost", False)),
        (acted(5, "done"), 50.0, 2, ("lost", False)),
        (None, 50.0, 2, ("lost", False)),
    ],
)
def test_how_an_action_ends(acted: Acted | None, now: float, epoch: int, expected: tuple[str, bool] | None) -> None:
    """An action expires only if it was not begun, and one of an earlier epoch is lost."""
    ending = closure_of("n1", Action(index=5, name="blink", expires=100.0), acted, epoch=epoch, now=now)
    assert (None if ending is None else (ending.state, ending.requires_not_started)) == expected
