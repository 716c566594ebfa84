"""A full etcd: commands are refused before it is, room is made, and the NOSPACE alarm is mended. With a real etcd."""

from __future__ import annotations

import asyncio
import itertools
import re
import subprocess
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from masterd.upkeep import space_plan
from nodestore.errors import NodectlError, NoSpace, NoSpaceUnknown, OutcomeUnknown
from nodestore.etcd import maintenance
from nodestore.etcd.session import Etcd, op_put
from nodestore.schema.keys import Keys
from nodestore.schema.models import Entry, Inventory, decode
from tests.faults.late.transactions import run_leader, session
from tests.support.access.etcd_auth import PASSWORD, enable_auth
from tests.support.etcd_cluster import EtcdCluster, find_etcd
from tests.support.masters import Masters
from tests.support.waiting import eventually

QUOTA = 24 << 20
VALUE = 100_000
PATIENCE_S = 60.0
INVENTORY = Inventory.model_validate(
    {"nodes": {"n1": {}, "n2": {}}, "defaults": {"driver": {"name": "process", "settings": {"argv": ["x"]}}}}
)


def small(size: int = 1) -> EtcdCluster:
    return EtcdCluster(size, flags=(f"--quota-backend-bytes={QUOTA}",))


@asynccontextmanager
async def playing(cluster: EtcdCluster, keys: Keys, arguments: Sequence[str] = ()) -> AsyncIterator[Masters]:
    """A configured cluster with m1 leading, on a lease that no stall ends."""
    told = (f"--etcd-quota-bytes={QUOTA}", "--lease-ttl=60", *arguments)
    async with Masters(cluster, keys, arguments=told) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1", PATIENCE_S)
        yield masters


def text(number: int) -> str:
    return f"{number}:" + "x" * VALUE


async def save_scene(masters: Masters, number: int) -> None:
    """A command that writes much, and whose result is small: results are remembered for long."""
    answer = await masters.command("scene.save", name="big", nodes={"n1": {"text": text(number)}})
    assert "problem" not in answer, answer


async def saved(masters: Masters, name: str, consistency: str = "linearizable") -> str:
    found = await masters.ask(name, "GET", f"/v1/documents/scenes/big?consistency={consistency}")
    return str(found["document"]["nodes"]["n1"]["text"])


async def fill_with_history(etcd: Etcd) -> None:
    """Until the NOSPACE alarm: the same few foreign keys again and again."""
    for number in itertools.count():
        try:
            await etcd.put(f"/foreign/{number % 4}", bytes(VALUE))
        except NoSpaceUnknown:
            break
        except OutcomeUnknown:
            continue  # etcd's leadership has just been moved
    await eventually(lambda: alarmed(etcd), "the alarm stands")


async def alarmed(etcd: Etcd) -> bool:
    return bool(await maintenance.alarms(etcd))


async def problems_of(masters: Masters, name: str) -> str:
    with suppress(NodectlError):
        return "; ".join((await masters.ask(name, "GET", "/v1/status?consistency=local"))["problems"])
    return ""


@pytest.mark.nightly
async def test_commands_that_write_much_for_long(keys: Keys) -> None:
    """More than the quota is written in total; masterd makes room, and all commands are acknowledged."""
    async with small() as cluster, playing(cluster, keys) as masters:
        for number in range(110):  # each: its entry, with arguments and document, and the document's view
            await save_scene(masters, number)
        assert not await alarmed(masters.etcd)
        assert await saved(masters, "m1") == text(109)
        assert sorted(masters.acknowledged.values()) == list(range(2, 112))


async def test_living_data_near_the_quota(keys: Keys) -> None:
    """Commands are refused with the reason, reads continue, and `status` reports it.

    Once there is room, commands continue.
    """
    async with small() as cluster, playing(cluster, keys) as masters:
        for number in range(int(0.83 * QUOTA / (VALUE + 1_000))):
            await masters.etcd.put(f"/foreign/{number}", bytes(VALUE))

        async def refused() -> bool:
            body = {"name": "node.set", "args": {"node": "n1", "values": {"x": 1}}, "actor": "t"}
            try:
                await masters.ask("m1", "POST", "/v1/commands", body)
            except NoSpace as error:
                return (
                    re.search(r"etcd's database is 8\d% full .*, so no commands are accepted: ", str(error)) is not None
                )
            return False

        await eventually(refused, "commands are refused", timeout_s=PATIENCE_S)
        assert not await alarmed(masters.etcd)
        assert (await masters.ask("m1", "GET", "/v1/nodes"))["nodes"]
        assert "etcd's database is 8" in await problems_of(masters, "m1")

        async def helpless() -> bool:
            return "nothing more can be freed: delete named snapshots" in await problems_of(masters, "m1")

        await eventually(helpless, "it says that nothing more can be freed", timeout_s=PATIENCE_S)
        waiting = asyncio.create_task(save_scene(masters, 1))
        await masters.etcd.delete("/foreign/", prefix=True)
        await waiting

        async def healthy() -> bool:
            return "database" not in await problems_of(masters, "m1")

        await eventually(healthy, "nothing is wrong any more")
        assert masters.running["m1"].exit_code is None
        assert (await masters.leader()).record is not None


async def test_the_alarm_under_a_leader(keys: Keys) -> None:
    """The leader frees what it can on each member, one after another, etcd's leader last, and disarms."""
    # m1 is not to move etcd's leadership meanwhile
    async with small(3) as cluster, playing(cluster, keys, ("--local-member=none",)) as masters:
        await save_scene(masters, 1)
        term = (await masters.leader()).revision
        before = await maintenance.status(masters.etcd, cluster.endpoints[0], timeout_s=10.0)
        await fill_with_history(masters.etcd)
        await save_scene(masters, 2)
        assert not await alarmed(masters.etcd)
        assert (await masters.leader()).revision == term
        said = re.findall(r"defragment(?:ing|ed) (\S+)", masters.running["m1"].log_tail(200))
        begun, ended = said[::2], said[1::2]
        assert begun == ended, "one after another"
        assert set(begun) == set(cluster.endpoints)
        after = await maintenance.status(masters.etcd, cluster.endpoints[0], timeout_s=10.0)
        last = (await maintenance.status(masters.etcd, begun[-1], timeout_s=10.0)).member
        # where so much is written it may have changed; after two elections nobody knows who led between them
        assert last in (before.leader, after.leader) or after.raft_term > before.raft_term + 1
        assert await saved(masters, "m1") == text(2)


async def test_the_alarm_while_nobody_leads(keys: Keys) -> None:
    """A masterd that gets no lease follows the journal, mends the store, and takes over."""
    async with small() as cluster, playing(cluster, keys, ("--lease-ttl=2",)) as masters:
        await save_scene(masters, 1)
        masters.running["m1"].kill()
        await fill_with_history(masters.etcd)
        masters.start("m2")
        await masters.wait_serving("m2", PATIENCE_S)
        await save_scene(masters, 2)
        assert not await alarmed(masters.etcd)


@pytest.mark.nightly
@pytest.mark.timeout(300)
async def test_the_alarm_without_the_rights_to_mend_it(keys: Keys, tmp_path: Path) -> None:
    """A masterd without the rights reports the reason and the command to run, and reads continue.

    A masterd with the rights clears the alarm.
    """
    password = tmp_path / "password"
    password.write_text(PASSWORD)
    async with small() as cluster:
        await enable_auth(cluster)
        await plain_user(cluster, keys)
        arguments = (f"--etcd-quota-bytes={QUOTA}", "--lease-ttl=60", "--user=plain", f"--password-file={password}")
        async with Masters(cluster, keys, arguments=arguments, user="root", password=PASSWORD) as masters:
            await masters.configure(INVENTORY)
            masters.start("m1")
            await masters.wait_serving("m1", PATIENCE_S)
            await save_scene(masters, 1)
            await fill_with_history(masters.etcd)

            async def told() -> bool:
                said = await problems_of(masters, "m1")
                return "NOSPACE" in said and "user plain" in said and "alarm disarm" in said

            await eventually(told, "why not, and what to do", timeout_s=PATIENCE_S)
            with pytest.raises(NoSpace, match="--maintenance-user"):
                await masters.ask("m1", "POST", "/v1/commands", {"name": "node.set", "args": {}, "actor": "t"})
            assert await saved(masters, "m1", "local") == text(1)
            assert await alarmed(masters.etcd)
            masters.start("m2", arguments=("--maintenance-user=root", f"--maintenance-password-file={password}"))

            async def mended() -> bool:
                return not await alarmed(masters.etcd)

            await eventually(
                mended, "m2 mends it", timeout_s=3 * PATIENCE_S
            )  # the leader goes first, and is asked again
            await save_scene(masters, 2)


async def plain_user(cluster: EtcdCluster, keys: Keys) -> None:
    """One that may do with our keys what it likes, and nothing else. Its password is root's."""
    etcdctl = find_etcd().with_name("etcdctl")
    common = [str(etcdctl), f"--endpoints={','.join(cluster.endpoints)}", f"--user=root:{PASSWORD}"]
    for command in (
        ["role", "add", "plain"],
        ["role", "grant-permission", "plain", "readwrite", "--prefix", keys.prefix],
        ["user", "add", f"plain:{PASSWORD}"],
        ["user", "grant-role", "plain", "plain"],
    ):
        await asyncio.to_thread(subprocess.run, [*common, *command], check=True, capture_output=True)


async def test_the_write_that_fills_the_database_is_not_denied_to_have_happened(keys: Keys) -> None:
    """etcd applies it, and answers with the same words as it refuses those that come after."""
    async with small() as cluster, session(cluster) as etcd:
        landed: list[str] = []

        async def write(number: int) -> None:
            count = 0
            with suppress(NoSpaceUnknown):
                while True:
                    name = f"/foreign/{number}-{count}"
                    await etcd.txn([], [op_put(name, bytes(VALUE))])
                    count += 1
            if await etcd.get(name) is not None:
                landed.append(name)

        await asyncio.gather(*(write(number) for number in range(32)))
        assert landed, "the case that this is about did not come up"


async def test_commands_across_the_alarm_are_told_the_truth(keys: Keys) -> None:
    """Within one term, refused commands are not in the journal, and those in it were acknowledged.

    Afterwards commands continue.
    """
    async with small() as cluster, session(cluster) as etcd, run_leader(etcd, etcd, keys) as seat:
        for number in range(int(0.5 * QUOTA / VALUE)):
            await etcd.put(f"/foreign/{number}", bytes(VALUE))
        acknowledged, refused = {"last"}, set[str]()
        while not refused:
            names = [f"c{len(acknowledged) + offset}" for offset in range(8)]
            done = await asyncio.gather(*(seat.put("p", name, text=name + "x" * VALUE) for name in names))
            for name, outcome in zip(names, done, strict=True):
                assert outcome.error is None or isinstance(outcome.error, NoSpace), outcome.error
                (acknowledged if outcome.error is None else refused).add(name)
        await seat.leader.confirm_read()
        await eventually(lambda: alarmed(etcd), "the alarm stands")
        await mend(etcd)
        assert (await seat.put("p", "last", x=1)).error is None
        entries = [decode(Entry, kv.value, kv.key) for kv in (await etcd.range(keys.journal)).kvs]
        assert {record.id for entry in entries for record in entry.commands} == acknowledged


async def mend(etcd: Etcd) -> None:
    """What an operator does. For one member."""
    endpoint = etcd.settings.endpoints[0]
    await etcd.delete("/foreign/", prefix=True)
    await maintenance.compact(etcd, (await maintenance.status(etcd, endpoint)).revision, physical=True)
    await maintenance.defragment(etcd, endpoint)
    for alarm in await maintenance.alarms(etcd):
        await maintenance.disarm(etcd, alarm)


def test_the_words_of_the_alarm_are_known() -> None:
    """The text is in every member's status; the tests above show that a real etcd still uses it."""
    assert space_plan._NOSPACE.findall("memberID:4709832236602806941 alarm:NOSPACE ") == ["4709832236602806941"]
