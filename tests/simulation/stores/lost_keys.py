"""What happens if another program deletes or garbles keys in etcd: each kind of key in turn, and all at once.

Each case runs a cluster in virtual time, does the damage, and checks that nothing acknowledged is lost: neither by the
masterds that run, nor by one that starts with an empty memory after all of them have crashed. `python -m
tests.simulation.stores.lost_keys docs/lost-keys.md` writes the results into the table of that page; a test compares it.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nodectl.backup_restore import recovery
from nodestore.etcd.session import op_delete, op_get
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Challenge, Waiting, decode
from nodestore.support.jsonio import Document
from tests.simulation.faults import puts
from tests.simulation.node import Node
from tests.simulation.world import Pc, World, no_fault
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.link import FINE, Fate

BEGIN, END = "<!-- table: make lostkeys -->", "<!-- end of the table -->"
_NOTICED_S = 25.0
"""By then every check of a leader has run."""
_COMMANDS = 9


@dataclass(frozen=True)
class Kind:
    """A kind of key. name: in the table. under: the keys or prefixes. note: what to know about it."""

    name: str
    under: Callable[[Keys], Sequence[str]]
    note: str = ""


KINDS = (
    Kind("`epoch`", lambda keys: [keys.epoch],
         "no master leads, and nodes keep their state; as a program may know a higher one, none writes it by itself"),
    Kind("`leader`", lambda keys: [keys.leader], "a takeover follows, as after a resignation"),
    Kind("`terms/`", lambda keys: [keys.terms], "only the history of takeovers is lost"),
    Kind("`candidates/`", lambda keys: [keys.candidates], "each masterd writes its own again"),
    Kind("`paused`", lambda keys: [keys.paused], "deleted: the same as `nodectl master resume`; garbled: ignored"),
    Kind("`challenges/`, `answers/`", lambda keys: [keys.challenges, keys.answers],
         "a suspicious standby challenges again"),
    Kind("`head`", lambda keys: [keys.head], "an open commit is decided by its journal entry"),
    Kind("`journal/`", lambda keys: [keys.journal],
         "the leader writes a snapshot of its memory; the history before it is lost"),
    Kind("`snapshots/`", lambda keys: [keys.snapshots],
         "the leader writes a snapshot if the journal does not hold the state; named snapshots are lost, and each is "
         "reported"),
    Kind("`state/`", lambda keys: [keys.state], "a view"),
    Kind("`desired/`", lambda keys: [keys.desired],
         "a view; written again at once, and a node obeys its absence only after 2 s"),
    Kind("`actions/`", lambda keys: [keys.actions], "a view"),
    Kind("`applied`", lambda keys: [keys.applied], "written with the next commit at the latest"),
    Kind("`applied`, `state/`", lambda keys: [keys.applied, keys.state], "views"),
    Kind("`config/current`", lambda keys: [keys.config_current], "deleted: the version in force is written and adopted "
         "again; garbled: it stays in force, and status names the key until a configuration is applied"),
    Kind("`config/history/`", lambda keys: [keys.config_history], "only the history is lost"),
    Kind("`acted/`", lambda keys: [keys.acted], "noded writes it again from memory with its next action"),
    Kind("`status/`", lambda keys: [keys.status], "noded writes its own again within 15 s"),
    Kind("`alive/`", lambda keys: [keys.alive], "noded claims its node again"),
    Kind("`waiting/`", lambda keys: [keys.waiting], "a noded that waits writes its own again within 15 s"),
    Kind("`head`, `journal/`, `snapshots/`", lambda keys: [keys.head, keys.journal, keys.snapshots],
         "the leader writes a snapshot of its memory, then `head`"),
    Kind("everything", lambda keys: [keys.prefix],
         "restart no masterd: the new epoch begins with the state in the memory of the masterd that is furthest"),
)  # fmt: skip


def _needs_recovery(kind: Kind, keys: Keys) -> bool:
    return any(keys.epoch.startswith(start) for start in kind.under(keys))


# --- the damage ------------------------------------------------------------------------------------------------------


async def delete(world: World, starts: Iterable[str]) -> None:
    ops = [op_delete(start, end=prefix_end(start) if start.endswith("/") else b"") for start in starts]
    await world.witness.txn([], ops)


async def garble(world: World, starts: Iterable[str]) -> None:
    """Write a value that no program can read over each key that exists."""
    for start in starts:
        listed = await world.witness.range(start, keys_only=True)
        for kv in listed.kvs:
            await world.witness.put(kv.key, b"{oops")


DAMAGES = {"deleted": delete, "garbled": garble}


class _OpenCommit:
    """The leader's next commit is in flight while the damage is done. lands_first: it lands, but its reply is lost."""

    def __init__(self, world: World, lands_first: bool) -> None:
        self._world, self._lands_first = world, lands_first
        self.is_done = False

    def fate(self, pc: Pc, method: str, request: Any) -> Fate:
        if self.is_done or not puts(request, self._world.keys.head):
            return FINE
        self.is_done = True
        return Fate(replied=False) if self._lands_first else Fate(late_s=0.2, replied=False)


SITUATIONS = ("idle", "an open commit that lands before", "an open commit that lands later", "epoch 2")


# --- a case ----------------------------------------------------------------------------------------------------------


async def _begin(world: World, situation: str) -> None:
    """A cluster of two masterds and a node at work, with a snapshot, a named snapshot, an action and an answer."""
    await world.start("m1", "m2")
    await world.configure(2, "red")
    world.nodes["n1"] = Node(world, "n1")
    await world.serving()
    if situation == "epoch 2":
        await _begin_second_epoch(world)
    await world.command("put", {"path": "nodes/n1", "document": {"x": 1}})
    for number in range(_COMMANDS):
        await world.command("append", {"path": "lists/0", "item": str(number)})
        await asyncio.sleep(0.2)
    await world.command("append", {"path": "lists/idle", "item": "no later command writes this view again"})
    await world.save("kept")
    await world.command("act", {"node": "n2", "expires_s": 900.0})
    leader = await world.serving()
    assert leader.leader is not None
    challenge = Challenge(term=leader.leader.fence.term.revision, nonce="asked")
    await world.witness.put(world.keys.challenge("m9"), challenge.encode())
    await asyncio.sleep(3.0)


async def _begin_second_epoch(world: World) -> None:
    await world.begin_epoch(2)
    await asyncio.sleep(3.0)
    await world.serving()


async def _wait_for_claim(world: World) -> None:
    """Start a noded on another host that waits for the claim of n1."""
    world.nodes["n1 on another host"] = Node(world, "n1", host="another")
    await asyncio.sleep(3.0)
    await _expect_waiting(world)


async def _expect_waiting(world: World) -> None:
    (found,) = (await world.witness.range(world.keys.waiting)).kvs
    assert decode(Waiting, found.value, found.key).host_id == "another"


async def _damage(world: World, kind: Kind, damage: str, situation: str) -> None:
    if situation.startswith("an open commit"):
        commit = _OpenCommit(world, "before" in situation)
        world.fate = commit.fate
        world.later(0.0, lambda: world.command("append", {"path": "lists/open", "item": "open"}))
        await world.until(lambda: commit.is_done, "the commit is sent")
        await asyncio.sleep(0.01)
        world.fate = no_fault
    await DAMAGES[damage](world, kind.under(world.keys))
    await asyncio.sleep(_NOTICED_S)


async def _recover(world: World) -> None:
    """Do what the message says. No masterd leads, and each one names the command."""
    assert world.leader is None
    said = [pc.parts.health.problem or "" for pc in world.running.values()]
    assert said
    assert all("nodectl recover" in text or '{"v":1,"epoch":' in text for text in said), said
    found = await recovery.read_restored(world.witness, world.keys)
    assert found.may_run
    await recovery.begin_epoch(world.witness, world.keys, found, "test")


def _documents(pc: Pc) -> dict[str, Document]:
    return {path: doc.value for path, doc in pc.parts.replica.state.documents.items()}


async def _start_afresh(world: World) -> dict[str, Document]:
    """All masterds crash; return the documents of one that starts with an empty memory and serves."""
    for pc in tuple(world.running.values()):
        pc.crash()
    await asyncio.sleep(1.0)
    await world.start("m3")
    return _documents(await world.serving())


async def run_case(world: World, kind: Kind, damage: str, situation: str) -> str:
    """What happened, in the words of the table. AssertionError if anything acknowledged is lost."""
    await _begin(world, situation)
    if world.keys.waiting in kind.under(world.keys):
        await _wait_for_claim(world)
    await _damage(world, kind, damage, situation)
    outcome = "mended"
    if _needs_recovery(kind, world.keys):
        await _recover(world)
        outcome = "reported: `nodectl recover`"
    leader = await world.serving()
    assert leader.leader is not None
    if outcome == "mended" and leader.leader.store_repairs:
        outcome = "mended, reported"
    await world.command("append", {"path": "lists/0", "item": "after"})
    await world.command("put", {"path": "nodes/n1", "document": {"x": 2}})
    _expect_acknowledged(world, _documents(await world.serving()))
    await asyncio.sleep(_NOTICED_S)
    await _expect_keys(world)
    if world.keys.waiting in kind.under(world.keys):
        await _expect_waiting(world)
    before = _documents(await world.serving())
    assert await _start_afresh(world) == before
    assert not world.program_errors, world.program_errors
    return outcome


def _expect_acknowledged(world: World, documents: dict[str, Document]) -> None:
    """Each acknowledged `append` took effect once, in order; one whose outcome is open did so at most once."""
    items = documents["lists/0"]["items"]
    assert items == [*map(str, range(_COMMANDS)), "after"], items
    opened = documents.get("lists/open", {"items": []})["items"]
    acknowledged = [command for command in world.commands if command.args.get("item") == "open" and command.index]
    assert opened == ["open"] * len(opened)
    assert len(opened) <= 1
    assert not acknowledged or opened, "an acknowledged command is lost"


async def _expect_keys(world: World) -> None:
    """What nodes and automation need is there again, and the node still obeys the newest order."""
    keys = world.keys
    names = [
        keys.epoch, keys.leader, keys.head, keys.applied, keys.desired_of("n1"), keys.alive_of("n1"),
        keys.status_of("n1"), keys.document("lists/0"), keys.document("lists/idle"), keys.config_current,
    ]  # fmt: skip
    result = await world.witness.txn([], [op_get(name) for name in names])
    missing = [name for at, name in enumerate(names) if result.range(at).first is None]
    assert missing == []
    order = world.nodes["n1"].orders.desired
    assert order is not None
    assert order.spec.document["x"] == 2


def outcome_of(kind: Kind, damage: str, situation: str) -> str:
    """Run one case."""
    with VirtualTime() as time:
        world = World(time)
        try:
            return world.run(run_case(world, kind, damage, situation))
        except AssertionError as error:
            raise AssertionError(f"{kind.name} {damage}, {situation}: {error}") from error
        finally:
            world.run(world.close())


# --- the table -------------------------------------------------------------------------------------------------------


def table(outcomes: dict[tuple[str, str], set[str]]) -> str:
    """The Markdown table. outcomes: by kind and damage, what happened in the situations."""
    rows = ["| key | deleted | garbled | |", "| --- | --- | --- | --- |"]
    for kind in KINDS:
        # The longest says most: what a commit wrote before the leader noticed it is not reported.
        cells = [max(outcomes[kind.name, damage], key=len) for damage in DAMAGES]
        rows.append(f"| {kind.name} | {cells[0]} | {cells[1]} | {kind.note} |")
    return "\n".join(rows)


def all_outcomes() -> dict[tuple[str, str], set[str]]:
    """Run every case."""
    return {
        (kind.name, damage): {outcome_of(kind, damage, situation) for situation in SITUATIONS}
        for kind in KINDS
        for damage in DAMAGES
    }


def page_with(text: str, table: str) -> str:
    """The page with this table between its markers."""
    before, _, rest = text.partition(BEGIN)
    _, _, after = rest.partition(END)
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


if __name__ == "__main__":
    page = Path(sys.argv[1])
    page.write_text(page_with(page.read_text("utf-8"), table(all_outcomes())), "utf-8", newline="\n")
