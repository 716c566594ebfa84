"""Applying a configuration and pausing takeovers: checks, conflicts, fences, and outcomes that are unknown at first."""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nodestore.cluster.configuration import Configuration, checked_inventory, current_of, version_of
from nodestore.errors import Conflict, Garbage, Invalid, LeadershipLost, NodectlError, OutcomeUnknown, Unavailable
from nodestore.etcd.session import Etcd, cmp_mod
from nodestore.schema.keys import Keys
from nodestore.schema.models import ConfigRecord, Paused, decode
from nodestore.support.json_rules import DEPTH_MAX
from tests.support.fakes.clock import VirtualTime
from tests.support.fakes.link import FINE, REFUSED, Fate
from tests.support.fakes.unsure_store import UnsureStore
from tests.support.sessions import error_of, version
from tests.support.toy_app import Line

KEYS = Keys("test")
TRIES = 5


class Store(UnsureStore):
    """A store whose writing transactions meet faults, and what is tested."""

    @asynccontextmanager
    async def opened(self) -> AsyncIterator[tuple[Configuration, Etcd]]:
        """What is tested, through the link, and a session on which nothing goes wrong."""
        async with self.sessions() as (etcd, witness):
            yield Configuration(etcd, KEYS), witness


async def apply(configuration: Configuration, inventory: Any = None, **more: Any) -> int:
    options = {"source": "# source", "expect_version": None, "actor": "ann", **more}
    return await configuration.apply({"nodes": {"n1": {}}} if inventory is None else inventory, **options)


def other_record(number: int) -> bytes:
    return ConfigRecord(version=number, actor="bob", time=0.0, inventory={}).encode()


# --- applying ---------------------------------------------------------------------------------------------------------


async def test_a_configuration_is_written_as_it_was_given() -> None:
    """Under `config/current` and in the history, one version after the other."""
    async with Store().opened() as (configuration, etcd):
        assert await configuration.current() is None
        assert await apply(configuration, {"nodes": {"n1": {"x": [1, (2, 3)]}}}, expect_version=0) == 1
        assert await apply(configuration, {}, expect_version=1) == 2
        assert await apply(configuration, {"nodes": {}}) == 3
        current = await configuration.current()
        assert current is not None
        assert (current.version, current.actor, current.source) == (3, "ann", "# source")
        assert current.inventory == {"nodes": {}}
        first = await etcd.get(KEYS.config_version(1))
        assert first is not None
        assert decode(ConfigRecord, first.value, "first").inventory == {"nodes": {"n1": {"x": [1, [2, 3]]}}}


async def test_another_version_is_a_conflict() -> None:
    """If the current version is not the expected one, nothing is written."""
    async with Store().opened() as (configuration, etcd):
        await apply(configuration)
        with pytest.raises(Conflict, match="the configuration is at version 1, not 7"):
            await apply(configuration, expect_version=7)
        assert await version(etcd, KEYS.config_current) == 1


def nested(levels: int) -> Any:
    return {} if levels == 0 else {"x": nested(levels - 1)}


NAME = "use 1 to 63 letters, digits, '.', '_' or '-', beginning and ending with a letter or digit"
BAD_INVENTORIES: list[tuple[Any, str]] = [
    ({"nodes": {"../up": {}}}, f"inventory: node name '../up' is not allowed: {NAME}"),
    ({"nodes": {"a/b": {}}}, f"inventory: node name 'a/b' is not allowed: {NAME}"),
    ({"masters": {"": {}}}, f"inventory: master name '' is not allowed: {NAME}"),
    ({"groups": {"-g": {}}}, f"inventory: group name '-g' is not allowed: {NAME}"),
    ({"nodes": {"n" * 64: {}}}, f"inventory: node name '{'n' * 64}' is not allowed: {NAME}"),
    ({"groups": {"g": {"nodes": ["n1"]}}}, "inventory: group g names node n1, which is not among the nodes"),
    ({"nodes": {"n1": {"position": 1}}}, "inventory: nodes.n1.position: Input should be a valid array"),
    ({"v": 2}, "inventory: written with schema version 2, this program reads up to 1: upgrade it"),
    ([], "inventory: Input should be an object"),
    (None, "inventory: Input should be an object"),
    ({"settings": nested(DEPTH_MAX)}, f"inventory: nested more than {DEPTH_MAX} levels deep"),
    ({"settings": {"x": 1 << 1024}}, "inventory: a number of more than 1024 bits is not allowed"),
    ({"settings": {"x": math.inf}}, "inventory: inf has no JSON notation"),
    ({"settings": {"x": "\ud800"}}, "inventory: a text holds half of a surrogate pair"),
    ({"nodes": {1: {}}}, "inventory: a name in an object must be text, not int"),
    ({"settings": {"x": {1}}}, "inventory: a value of type set is not JSON"),
]


@pytest.mark.parametrize(("inventory", "says"), BAD_INVENTORIES, ids=[says[:50] for _, says in BAD_INVENTORIES])
async def test_a_bad_inventory_is_invalid(inventory: Any, says: str) -> None:
    """The error names the problem, and nothing is written."""
    async with Store().opened() as (configuration, etcd):
        error = await error_of(configuration.apply(inventory, source="", expect_version=None, actor="ann"))
        assert (type(error), str(error)) == (Invalid, says)
        assert await version(etcd, KEYS.config_current) == 0


@pytest.mark.parametrize(
    "more", [{"source": "\ud800"}, {"actor": "\ud800"}, {"expect_version": -1}, {"expect_version": True}]
)
async def test_what_goes_with_an_inventory_is_checked_too(more: dict[str, Any]) -> None:
    """Otherwise a record is written that cannot be adopted."""
    async with Store().opened() as (configuration, etcd):
        with pytest.raises(Invalid, match=next(iter(more))):
            await apply(configuration, **more)
        assert await version(etcd, KEYS.config_current) == 0


@pytest.mark.parametrize("levels", range(DEPTH_MAX - 5, DEPTH_MAX + 3))
def test_what_may_be_applied_may_be_adopted(levels: int) -> None:
    """`apply` and adoption have the same limit of nesting."""
    inventory = {"settings": nested(levels)}
    line = Line()

    def adopt() -> None:
        line.batch().adopt(ConfigRecord(version=1, actor="ann", time=0.0, inventory=inventory), 5)

    assert _is_invalid(lambda: checked_inventory(inventory)) == _is_invalid(adopt)


def _is_invalid(call: Callable[[], Any]) -> bool:
    try:
        call()
    except Invalid:
        return True
    return False


async def test_the_version_after_what_cannot_be_read() -> None:
    """If the current configuration is garbage, `current` raises Garbage, and the next version is above all in the
    history."""
    async with Store().opened() as (configuration, etcd):
        for _ in range(2):
            await apply(configuration)
        await etcd.put(KEYS.config_current, b"garbage")
        await etcd.put(KEYS.config_history + "x", b"")
        with pytest.raises(Garbage, match="config/current"):
            await configuration.current()
        found = await etcd.get(KEYS.config_current)
        assert "config/current" in (current_of(found).problem or "")
        assert current_of(None) == (None, None)
        assert await version_of(etcd, KEYS, found) == 2
        assert await apply(configuration, expect_version=2) == 3
        await etcd.delete(KEYS.config_current)
        assert await apply(configuration, expect_version=3) == 4


# --- the fence of a leader --------------------------------------------------------------------------------------------


async def test_a_fence_that_does_not_hold() -> None:
    """Nothing is written. The error says that the term is over, not that another configuration was applied."""
    async with Store().opened() as (configuration, etcd):
        term = await etcd.put(KEYS.leader, b"m1")
        assert await apply(configuration, compares=[cmp_mod(KEYS.leader, term)]) == 1
        await etcd.put(KEYS.leader, b"m2")
        with pytest.raises(LeadershipLost, match="the term ended"):
            await apply(configuration, compares=[cmp_mod(KEYS.leader, term)])
        assert await version(etcd, KEYS.config_current) == 1


@pytest.mark.parametrize("arrives", [True, False])
async def test_a_term_that_ends_while_the_outcome_is_unknown(arrives: bool) -> None:
    """What landed before is applied; what did not will not land any more."""
    store = Store()
    async with store.opened() as (configuration, etcd):
        term = await etcd.put(KEYS.leader, b"m1")
        store.fates = [store.broken(arrives=arrives, meanwhile=store.writes(KEYS.leader, b"m2"))]
        call = apply(configuration, compares=[cmp_mod(KEYS.leader, term)])
        if arrives:
            assert await call == 1
        else:
            assert isinstance(await error_of(call), LeadershipLost)
        assert await version(etcd, KEYS.config_current) == int(arrives)


# --- lost replies -----------------------------------------------------------------------------------------------------

FATES = st.lists(st.sampled_from(["fine", "refused", "lost", "unheard"]), max_size=TRIES + 2)


def fate(store: Store, name: str) -> Fate:
    if name in ("lost", "unheard"):
        return store.broken(arrives=name == "unheard")
    return {"fine": FINE, "refused": REFUSED}[name]


@settings(deadline=None)
@given(FATES, st.sampled_from(["apply", "pause", "resume"]))
def test_any_faults(fates: list[str], action: str) -> None:
    """A write takes effect at most once, exactly once if it returns, and not at all if it is Unavailable."""

    async def run() -> None:
        store = Store()
        async with store.opened() as (configuration, etcd):
            if action == "resume":
                await etcd.put(KEYS.paused, b"garbage")
            calls: dict[str, Callable[[], Awaitable[Any]]] = {
                "apply": lambda: apply(configuration),
                "pause": lambda: configuration.pause("ann", "work"),
                "resume": configuration.resume,
            }
            store.fates = [fate(store, name) for name in fates]
            error = await error_of(calls[action]())
            store.fates.clear()
            done = {
                "apply": await version(etcd, KEYS.config_current),
                "pause": await version(etcd, KEYS.paused),
                "resume": int(await version(etcd, KEYS.paused) == 0),
            }[action]
            assert type(error) in (type(None), Unavailable, OutcomeUnknown)
            assert done in {type(None): (1,), Unavailable: (0,)}.get(type(error), (0, 1))

    with VirtualTime(0) as world:
        world.run(run())


@pytest.mark.parametrize(("faults", "arrives"), [(1, True), (1, False), (TRIES - 1, True), (TRIES - 1, False)])
async def test_a_lost_reply_is_settled(faults: int, arrives: bool) -> None:
    """By sending the same again: it was applied once, whether the first copy had landed or not."""
    store = Store()
    async with store.opened() as (configuration, etcd):
        store.fates = [store.broken(arrives=arrives) for _ in range(faults)]
        assert await apply(configuration, expect_version=0) == 1
        assert await version(etcd, KEYS.config_current) == 1
        assert await version(etcd, KEYS.config_version(1)) == 1


@pytest.mark.parametrize(
    ("first", "later", "kind"),
    [("lost", "lost", OutcomeUnknown), ("lost", "refused", OutcomeUnknown), ("refused", "refused", Unavailable)],
)
def test_an_outcome_that_stays_unknown(first: str, later: str, kind: type[NodectlError]) -> None:
    """The outcome is unknown if any copy was sent, even if later copies were not.

    Unavailable is raised only if no copy was sent.
    """

    async def run() -> None:
        store = Store()
        async with store.opened() as (configuration, _):
            store.fates = [fate(store, first), *(fate(store, later) for _ in range(1000))]
            assert type(await error_of(apply(configuration))) is kind
            assert store.fates

    with VirtualTime(0) as world:
        world.run(run())


@pytest.mark.parametrize("arrives", [True, False])
async def test_another_who_applies_while_the_outcome_is_unknown(arrives: bool) -> None:
    """The history shows whether our configuration was applied before the other one."""
    store = Store()
    async with store.opened() as (configuration, _):
        meanwhile = store.writes(KEYS.config_current, other_record(2 if arrives else 1))
        store.fates = [store.broken(arrives=arrives, meanwhile=meanwhile)]
        if arrives:
            assert await apply(configuration) == 1
        else:
            with pytest.raises(Conflict, match="another version 1 was applied at the same time"):
                await apply(configuration)


# --- the pause --------------------------------------------------------------------------------------------------------


async def test_pause_and_resume() -> None:
    """A pause replaces an earlier one; the key is there exactly while it is paused."""
    async with Store().opened() as (configuration, etcd):
        assert await configuration.paused() is None
        assert await configuration.resume() is False
        await configuration.pause("ann", "first")
        written = await configuration.pause("bob", "second")
        assert (written.actor, written.reason) == ("bob", "second")
        assert await configuration.paused() == written
        assert await configuration.resume() is True
        assert await etcd.get(KEYS.paused) is None


async def test_a_pause_that_cannot_be_read() -> None:
    """It is none; it is replaced, and ended, like any other."""
    async with Store().opened() as (configuration, etcd):
        await etcd.put(KEYS.paused, b"garbage")
        assert await configuration.paused() is None
        assert await configuration.resume() is True
        await etcd.put(KEYS.paused, b"garbage")
        assert await configuration.pause("ann", "work") == await configuration.paused()
        with pytest.raises(Invalid, match="reason: a text holds half"):
            await configuration.pause("ann", "\ud800")


@pytest.mark.parametrize("wins", [True, False])
async def test_others_pause_at_the_same_time(wins: bool) -> None:
    """A pause that was written in between is replaced, or ended. Conflict if there is one each time."""
    store = Store()
    async with store.opened() as (configuration, etcd):
        others = [Paused(actor="bob", time=float(number)).encode() for number in range(TRIES - wins)]
        calls: list[Callable[[], Awaitable[Any]]] = [lambda: configuration.pause("ann", "work"), configuration.resume]
        for call in calls:
            await etcd.put(KEYS.paused, b"garbage")
            store.fates = []
            for other in others:
                store.fates += [store.broken(arrives=False, meanwhile=store.writes(KEYS.paused, other)), FINE]
            error = await error_of(call())
            paused = await configuration.paused()
            by = paused.actor if paused else None
            if wins:
                assert (error, by) == (None, "ann" if call is calls[0] else None)
            else:
                assert (type(error), by) == (Conflict, "bob")
