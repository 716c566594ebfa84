"""Checks of the specs that a noded reports as applied: of a correct one, and of one without its check of terms."""

from __future__ import annotations

from pathlib import Path

import pytest

from nodestore.schema.keys import Keys
from nodestore.schema.models import Desired, Spec, Term
from tests.faults.checkers import history_checks, noded_log
from tests.support.etcd_cluster import EtcdCluster
from tests.support.noded.noded_rig import NODE, rig

OLD, NEW = 10, 20


def order(term: int, generation: int) -> Desired:
    spec = Spec(driver="file", settings={"path": "shown.json"}, document={"generation": generation})
    return Desired(epoch=1, term=term, generation=generation, spec=spec)


def judged(log: Path, last: Desired) -> list[str]:
    """What the checker finds in the log."""
    obedience = history_checks.Obedience()
    for event in noded_log.obeyed(NODE, log):
        obedience.see(event)
    return obedience.wrong({(1, OLD), (1, NEW)}, {NODE: last.generation})


@pytest.mark.parametrize("module", ["noded", "tests.faults.sabotaged_noded"])
async def test_a_noded_that_obeys_a_deposed_leader_is_found(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path, module: str
) -> None:
    """Its log shows it, also across a restart. With its check in place nothing is found."""
    last = order(NEW, 5)
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.put(order(OLD, 1))
        noded = await node.start(module=module)
        await node.ready(1)
        await node.put(order(NEW, 3))
        await node.ready(3)
        await node.put(order(OLD, 4))
        if module == "noded":
            await node.says(noded, "order 1.10.4 is ignored: noded has already obeyed 1.20.3")
        else:
            await node.ready(4)
        await node.put(last)
        await node.ready(5)
        found = judged(noded.log_path, last)
    assert found == ([] if module == "noded" else [f"{NODE} obeyed 1.10.4 after 1.20.3"])


async def test_what_does_not_change_the_spec_is_said_too(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The same spec in a new term is reported again, once."""
    same = [order(OLD, 1), order(NEW, 1)]
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.put(same[0])
        noded = await node.start()
        await node.ready(1)
        await node.put(same[1])
        await node.says(noded, "obeys order 1.20.1 ")
        events = noded_log.obeyed(NODE, noded.log_path)
    told = [Term(event.fields["epoch"], event.fields["term"]) for event in events]
    assert told == [Term(1, OLD), Term(1, NEW)]
