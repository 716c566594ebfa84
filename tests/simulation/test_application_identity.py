"""Which masterd may lead by its application, and in which order unfit ones do. No label leaves the cluster leaderless,
except another application than the recorded one."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from masterd.application.contract import View
from masterd.election.fitness import UNFIT_WAIT_S
from masterd.state_machine.batch import CONFIG_APPLICATION
from masterd.term.committer import Committer
from nodestore.errors import Conflict
from nodestore.schema.entry_codec import decode_entry
from nodestore.schema.models import ApplicationOrder, Candidate, Inventory, Spec, TermRecord, decode
from tests.simulation.app import SimApp
from tests.simulation.checkers import problems
from tests.simulation.runs import play
from tests.simulation.world import World


class OtherApp(SimApp):
    """Another application: it gives every node another spec."""

    name = "other"

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        return Spec(driver="other")


class FailingApp(SimApp):
    """The same application in a version that fails on node n1."""

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        if node == "n1":
            raise ZeroDivisionError("as asked")
        return super().desired(config, view, node)


class ChangedApp(SimApp):
    """The same application in a version that gives n1 another spec."""

    def desired(self, config: Inventory, view: View, node: str) -> Spec | None:
        return Spec(driver="new") if node == "n1" else super().desired(config, view, node)


async def _start(world: World, name: str, application: Callable[[], SimApp] = SimApp) -> None:
    world.application = application
    await world.start(name)


async def _lead_with_two_nodes(world: World) -> None:
    """m1 leads with the recorded application, and n1 has an order."""
    await _start(world, "m1")
    await world.configure(2, "red")
    await world.serving()
    await world.command("put", {"path": "nodes/n1", "document": {"x": 1}})


async def _follow_nothing() -> None:
    await asyncio.Event().wait()


async def _orders(world: World) -> list[tuple[str, int]]:
    return [(kv.key, kv.mod_revision) for kv in (await world.witness.range(world.keys.desired)).kvs]


async def _terms(world: World) -> list[str]:
    found = (await world.witness.range(world.keys.terms)).kvs
    return [decode(TermRecord, kv.value, kv.key).id for kv in sorted(found, key=lambda kv: kv.create_revision)]


async def _records(world: World, name: str) -> list[dict[str, Any]]:
    entries = [decode_entry(kv.value, kv.key) for kv in (await world.witness.range(world.keys.journal)).kvs]
    return [record.args for entry in entries for record in entry.commands if record.name == name]


async def _adopt(world: World, name: str, replaces: str) -> None:
    order = ApplicationOrder(name=name, replaces=replaces, actor="admin")
    await world.witness.put(world.keys.application, order.encode())


def test_a_masterd_with_another_application_never_leads_by_itself() -> None:
    """Not even as the only one: nodes keep their orders. Once it is adopted, it leads, and the former one does not."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        await _start(world, "m2", OtherApp)
        await asyncio.sleep(5.0)
        before = await _orders(world)
        world.running["m1"].crash()
        await asyncio.sleep(30.0)
        assert world.leader is None
        assert await _orders(world) == before
        assert await _terms(world) == ["m1"]
        fault = world.running["m2"].parts.health.problem
        assert fault is not None
        assert "nodectl app adopt other" in fault

        await _start(world, "m1")  # the former application leads again
        await world.until(lambda: world.leader is not None and world.leader.name == "m1", "m1 leads")
        world.running["m1"].crash()
        await _adopt(world, "other", replaces="simulated")
        await world.until(lambda: world.leader is not None and world.leader.name == "m2", "m2 leads")
        assert await _orders(world) != before
        assert await _records(world, CONFIG_APPLICATION) == [{"name": "other", "replaces": "simulated"}]

        await _start(world, "m1")
        await asyncio.sleep(5.0)
        world.running["m2"].crash()
        await asyncio.sleep(30.0)
        assert world.leader is None
        await _adopt(world, "other", replaces="other")  # an order for what is recorded anyway
        await _start(world, "m3", OtherApp)
        await world.until(lambda: world.leader is not None and world.leader.name == "m3", "m3 leads")

    play(life, judged=False)


def test_a_masterd_that_does_not_know_the_recorded_application_yet_gives_the_term_up_unserved() -> None:
    """Its replica may lag behind the entry that records the application. Nothing of the nodes is touched."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        before = await _orders(world)
        world.running["m1"].crash()
        await _start(world, "m2", OtherApp)
        m2 = world.running["m2"]
        m2.parts.replica.follow = _follow_nothing  # type: ignore[method-assign]
        await asyncio.sleep(30.0)
        assert world.leader is None
        assert await _orders(world) == before
        assert await _terms(world) == ["m1", "m2"]
        assert m2.parts.replica.state.application == "simulated"

    play(life, judged=False)


def test_a_switchover_to_another_application_is_refused() -> None:
    """It is refused by the standby itself, and the leader goes on."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        await _start(world, "m2", OtherApp)
        await asyncio.sleep(3.0)
        leading = await world.serving()
        assert leading.leader is not None
        with pytest.raises(Conflict, match="not fit to lead"):
            await world.running["m2"].parts.campaign.take_over_from(leading.leader.fence.term.revision, "test", 2.0)
        assert (await world.command("append", {"path": "lists/0", "item": "x"})).index
        assert await _terms(world) == ["m1"]

    play(life, judged=False)


def test_a_journal_that_names_no_application_takes_that_of_its_next_leader(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, even if no command follows: otherwise any application could take over from an idle leader."""

    async def life(world: World) -> None:
        with monkeypatch.context() as older_release:
            older_release.setattr(Committer, "application_to_record", None)
            await _lead_with_two_nodes(world)
            world.running["m1"].crash()
        await _start(world, "m2")
        await world.until(lambda: world.leader is not None and world.leader.name == "m2", "m2 leads")
        assert await _records(world, CONFIG_APPLICATION) == [{"name": "simulated", "replaces": None}]
        await _start(world, "m3", OtherApp)
        world.running["m2"].crash()
        await asyncio.sleep(30.0)
        assert world.leader is None
        await _start(world, "m1")
        await world.until(lambda: world.leader is not None and world.leader.name == "m1", "m1 leads")
        assert len(await _records(world, CONFIG_APPLICATION)) == 1

    play(life, judged=False)


def test_if_all_standbys_are_unfit_one_of_them_leads() -> None:
    """Each fails on n1, which keeps its order; the other nodes are driven."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        await _start(world, "m2", FailingApp)
        await _start(world, "m3", FailingApp)
        await world.until(lambda: _unfit(world) == ["m2", "m3"], "both are known to be unfit")
        before = await _orders(world)
        world.running["m1"].crash()
        await world.until(lambda: world.leader is not None, "one of them leads", 5.0)
        assert await _orders(world) == before
        assert (await world.command("put", {"path": "nodes/n2", "document": {"x": 2}})).refused is None
        assert len(await _orders(world)) == 2
        assert (await world.serving()).leader is not None

    play(life, judged=False)


@pytest.mark.parametrize("fit_one_lives", [True, False])
def test_an_unfit_standby_takes_over_last(fit_one_lives: bool) -> None:
    """It lets the fit one go first, whatever its name and priority; and leads if that one does not take over."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        await _start(world, "m2", FailingApp)
        if fit_one_lives:
            await _start(world, "m3")
        else:  # the candidacy of a fit masterd that does nothing
            candidate = Candidate(id="m3", host="m3", urls=(), index=1, nonce="m3")
            await world.witness.put(world.keys.candidate("m3"), candidate.encode())
        await world.until(lambda: _unfit(world) == ["m2"], "m2 is known to be unfit")
        world.running["m1"].crash()
        now = asyncio.get_running_loop().time
        crashed_at = now()
        await world.until(lambda: world.leader is not None, "one of them leads", 8.0)
        lease_s = 2.6  # its TTL, and the interval at which expiry is checked
        assert (now() - crashed_at < lease_s + 0.2) is fit_one_lives
        assert now() - crashed_at < lease_s + UNFIT_WAIT_S + 0.2
        assert world.leader is not None
        assert world.leader.name == ("m3" if fit_one_lives else "m2")
        assert len(await _terms(world)) == 2

    play(life, judged=False)


def test_a_standby_publishes_what_it_would_change() -> None:
    """That does not make it unfit: a new version of an application may give other specs. It is found anew after each
    new configuration, and the rehearsal itself changes nothing."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        before = await _orders(world)
        await _start(world, "m2", ChangedApp)
        candidates = world.running["m1"].parts.cluster_view.candidates.items

        def rehearsed(nodes: int) -> bool:
            report = candidates["m2"].rehearsal if "m2" in candidates else None
            return report is not None and report.nodes == nodes and report.differing == ("n1",)

        await world.until(lambda: rehearsed(2), "its rehearsal is published")
        assert candidates["m2"].unfit is None
        assert candidates["m1"].rehearsal is None
        await world.configure(3, "blue")
        await world.until(lambda: rehearsed(3), "it has rehearsed with the new configuration", 10.0)
        assert [key for key, _ in await _orders(world)] == [key for key, _ in before]

    play(life, judged=False)


def test_a_run_with_two_versions_of_the_application_stays_consistent() -> None:
    """Rehearsals and the recorded name disturb no command."""

    async def life(world: World) -> None:
        await _lead_with_two_nodes(world)
        await _start(world, "m2")
        for number in range(5):
            await world.command("append", {"path": "lists/0", "item": str(number)})
            await world.switchover()
            await asyncio.sleep(1.0)
        await world.settle()
        assert problems(world) == []

    play(life, judged=False)


def _unfit(world: World) -> list[str]:
    leading = world.leader
    assert leading is not None
    return sorted(name for name, item in leading.parts.cluster_view.candidates.items.items() if item.unfit is not None)
