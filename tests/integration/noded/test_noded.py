"""noded as a process of its own, with a real etcd and real programs.

The tests play the leader: they write desired states as it would, and read what noded makes of them.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import psutil
import pytest

from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.etcd.watch import Listing, mirror
from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Alive, Desired, Spec, Status, decode
from tests.support.etcd_cluster import EtcdCluster, find_etcd
from tests.support.waiting import eventually, first_true

TIMEOUT_S = 30.0
NODE = "n1"

SHOW = """
import json, os, time
while True:
    try:
        text = open(os.environ["NODECTL_DOCUMENT"]).read()
        with open("shown.new", "w") as file:
            json.dump({"document": json.loads(text), "pid": os.getpid()}, file)
        os.replace("shown.new", "shown.json")
    except (OSError, ValueError):
        pass
    time.sleep(0.05)
"""


class Noded:
    """One noded process and what it says."""

    def __init__(self, child: child_processes.Child, log: Path) -> None:
        self.child = child
        self._log = log

    @property
    def log_path(self) -> Path:
        return self._log

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8") if self._log.exists() else ""

    async def kill(self) -> None:
        """kill -9 of noded alone."""
        os.kill(self.child.pid, signal.SIGKILL if sys.platform != "win32" else signal.SIGTERM)
        await self.child.wait()

    async def ended(self) -> int:
        async with asyncio.timeout(TIMEOUT_S):
            return await self.child.wait()


class Rig:
    """A node's place in etcd, its work directory, and as many noded as a test starts for it."""

    def __init__(self, etcd: Etcd, endpoints: tuple[str, ...], keys: Keys, directory: Path) -> None:
        self.etcd = etcd
        self.endpoints = endpoints
        self.keys = keys
        self.work = directory / "work"
        self._directory = directory
        self._started: list[Noded] = []

    async def start(
        self, *options: str, host_id: str = "host-a", work: Path | None = None, module: str = "noded"
    ) -> Noded:
        log = self._directory / f"noded{len(self._started)}.log"
        argv = [sys.executable, "-m", module, "--node", NODE, "--cluster", self.keys.cluster, "--host-id", host_id]
        argv += ["--endpoints", ",".join(self.endpoints), "--work-dir", str(work or self.work)]
        argv += ["--tick", "0.3", *options]
        noded = Noded(await child_processes.spawn(argv, stdout=log, die_with_parent=True), log)
        self._started.append(noded)
        return noded

    async def close(self) -> None:
        for noded in self._started:
            if noded.child.poll() is None:
                child_processes.resume(noded.child.identity)
            await noded.child.stop(0)

    async def order(self, scene: str, generation: int, *, term: int = 5, code: str = SHOW, **settings: Any) -> None:
        settings = {"argv": ["{python}", "-c", code], "grace_s": 1, "settle_s": 0.5, **settings}
        spec = Spec(driver="process", settings=settings, document={"scene": scene})
        await self.put(Desired(epoch=1, term=term, generation=generation, spec=spec))

    async def put(self, desired: Desired) -> None:
        await self.etcd.put(self.keys.desired_of(NODE), desired.encode())

    async def status(self) -> Status | None:
        found = await self.etcd.get(self.keys.status_of(NODE))
        return decode(Status, found.value, found.key) if found else None

    async def alive(self) -> Alive | None:
        found = await self.etcd.get(self.keys.alive_of(NODE))
        return decode(Alive, found.value, found.key) if found else None

    async def reached(self, wanted: Callable[[Status], object], what: str) -> Status:
        """The first status for which `wanted` holds."""

        async def look() -> Status | None:
            status = await self.status()
            return status if status is not None and wanted(status) else None

        return await self.until(look, what)  # type: ignore[no-any-return]

    async def ready(self, generation: int) -> Status:
        return await self.reached(
            lambda status: status.phase == "ready" and status.observed_generation == generation,
            f"generation {generation} to be ready",
        )

    def shown(self, work: Path | None = None) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(((work or self.work) / "shown.json").read_bytes())
        except (OSError, ValueError):
            return {}
        return found

    async def shows(self, scene: str, work: Path | None = None, but_pid: int = 0) -> int:
        """The pid of the program, once it shows that scene (and is another process than `but_pid`)."""

        async def look() -> int:
            shown = self.shown(work)
            hit = shown.get("document") == {"scene": scene} and shown["pid"] != but_pid and runs(shown["pid"])
            return int(shown["pid"]) if hit else 0

        return int(await self.until(look, f"scene {scene}"))

    async def until(self, look: Callable[[], Awaitable[Any]], what: str) -> Any:
        try:
            return await first_true(look, what, timeout_s=TIMEOUT_S)
        except AssertionError as error:
            logs = "\n".join(noded.log for noded in self._started)
            raise AssertionError(f"{error}; status {await self.status()}\n{logs}") from None

    async def runs_another(self, pid: int, noded: Noded) -> dict[str, Any]:
        """What the program shows once it is not the process `pid`. It does without etcd."""

        def look() -> dict[str, Any] | None:
            shown = self.shown()
            return shown if shown.get("pid") not in (None, pid) else None

        what = f"another program than {pid}"
        return dict(await first_true(look, lambda: f"{what}\n{noded.log}", timeout_s=TIMEOUT_S))

    async def says(self, noded: Noded, words: str) -> None:
        async def look() -> bool:
            return words in noded.log

        await self.until(look, f"the log to say {words!r}")


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@asynccontextmanager
async def rig(cluster: EtcdCluster, keys: Keys, directory: Path) -> AsyncIterator[Rig]:
    async with Etcd(EtcdSettings(cluster.endpoints)) as etcd:
        made = Rig(etcd, cluster.endpoints, keys, directory)
        try:
            yield made
        finally:
            await made.close()


async def gone(node: Rig, pid: int) -> None:
    async def look() -> bool:
        return not runs(pid)

    await node.until(look, f"process {pid} to end")


# --- converging ------------------------------------------------------------------------------------------------------


async def test_node_converges_and_follows(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node comes up in its desired state, follows its changes, and says what it did and why."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        status = await node.ready(1)
        assert (status.node, status.epoch, status.term, status.driver) == (NODE, 1, 5, "process")
        assert status.actual["pid"] == pid
        assert status.error is None
        assert status.time > 0
        alive = await node.alive()
        assert alive is not None
        assert (alive.host_id, alive.nonce) == ("host-a", status.nonce)
        await node.order("two", 2)
        assert await node.shows("two") == pid
        assert (await node.ready(2)).reason == "its document changed (scene)"


async def test_node_waits_for_its_first_orders(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node nobody has told anything is idle, and begins when it is told."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.start()
        await node.reached(lambda status: status.phase == "idle", "idle")
        await node.order("one", 1)
        await node.shows("one")


async def test_asked_to_stop_it_leaves_nothing(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """SIGTERM: the program ends, the claim goes at once, the last status says so, and the exit code is 0."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        noded = await node.start("--lease-ttl", "60")
        pid = await node.shows("one")
        await node.ready(1)
        child_processes.terminate(noded.child.identity)
        assert await noded.ended() == 0
        assert not runs(pid)
        assert await node.alive() is None
        status = await node.status()
        assert status is not None
        assert (status.phase, status.reason, status.observed_generation) == ("idle", "noded was asked to stop", 1)


async def test_killed_with_its_program_it_converges_again(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """kill -9: the program does not outlive noded, and the next noded of the host need not wait for the lease."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start("--lease-ttl", "60")
        pid = await node.shows("one")
        await first.kill()
        await gone(node, pid)
        await node.order("two", 2)
        await node.start("--lease-ttl", "60")
        await node.shows("two", but_pid=pid)
        await node.ready(2)


@pytest.mark.skipif(sys.platform == "win32", reason="a directory in use cannot be removed")
async def test_work_directory_wiped_while_it_runs(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A wiped work directory is drift: noded makes it again, and the program is restarted in it."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.ready(1)
        node.work.rename(tmp_path / "wiped")  # the program writes into it: removing it file by file would be a race
        await node.shows("one", but_pid=pid)
        status = await node.reached(lambda status: status.actual.get("restarts") == 1, "the restart to be told")
        assert "working directory was removed" in status.reason
        assert (node.work / ".noded" / "applied.json").exists()


async def test_work_directory_wiped_while_it_is_dead(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node that lost everything on disk comes back from etcd alone."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start()
        pid = await node.shows("one")
        await first.kill()
        await gone(node, pid)
        shutil.rmtree(node.work)
        await node.start()
        await node.shows("one", but_pid=pid)
        await node.ready(1)


async def test_document_file_altered(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Somebody's change of the document file is undone at the next tick, without a restart."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.ready(1)
        path = node.work / "document.json"
        path.write_text('{"scene": "mine"}')

        async def right() -> bool:
            return path.exists() and json.loads(path.read_bytes()) == {"scene": "one"}

        await node.until(right, "the document to be put right")
        assert await node.shows("one") == pid


# --- failures --------------------------------------------------------------------------------------------------------


async def test_crash_loop_is_retried_and_told(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A program that always ends is retried with pauses, its last words are the error, and a good one ends it."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1, code="import sys; sys.exit('no display')")
        await node.start()
        status = await node.reached(lambda status: status.attempts >= 2, "two attempts")
        assert status.phase == "retrying"
        assert status.error == "the program exited with code 1: no display"
        await node.order("two", 2)
        await node.shows("two")
        assert (await node.ready(2)).error is None


async def test_crash_is_repaired_at_once(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The end of the program wakes noded: no tick has to pass."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start("--tick", "600")
        pid = await node.shows("one")
        await node.ready(1)
        psutil.Process(pid).kill()
        await node.shows("one", but_pid=pid)
        status = await node.reached(lambda status: status.actual.get("restarts") == 1, "the restart to be told")
        assert status.actual["exit_code"] != 0
        await node.ready(1)


async def test_refused_settings_leave_the_work_running(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Settings or a driver that cannot be are told as failed; what ran goes on, also across a crash of it."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.order("two", 2, grace=1)
        status = await node.reached(lambda status: status.observed_generation == 2, "generation 2")
        assert status.phase == "failed"
        assert status.error is not None
        assert "grace" in status.error
        spec = Spec(driver="relay", document={"scene": "three"})
        await node.put(Desired(epoch=1, term=5, generation=3, spec=spec))
        status = await node.reached(lambda status: status.observed_generation == 3, "generation 3")
        assert status.phase == "failed"
        assert "no driver named relay" in str(status.error)
        assert await node.shows("one") == pid
        psutil.Process(pid).kill()
        await node.shows("one", but_pid=pid)


async def test_garbage_is_reported_and_changes_nothing(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """An unreadable desired state leaves the one before in force."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        await node.etcd.put(keys.desired_of(NODE), b'{"epoch": "many"}')
        status = await node.reached(lambda status: status.error, "an error")
        assert "not readable" in str(status.error)
        assert status.observed_generation == 1
        assert await node.shows("one") == pid
        await node.order("two", 2)
        await node.shows("two")
        assert (await node.ready(2)).error is None


async def test_lower_order_is_ignored(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """What a deposed leader wrote is not obeyed, whatever its generation."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 7, term=9)
        noded = await node.start()
        await node.shows("one")
        await node.order("old", 8, term=8)
        await node.says(noded, "ignores order 1.8.8")
        status = await node.reached(lambda status: status.error, "an error")
        assert status.observed_generation == 7
        assert node.shown()["document"] == {"scene": "one"}
        await node.order("two", 8, term=9)
        await node.shows("two")


async def test_deleted_desired_state_stops_the_work(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A node that was removed from the inventory runs nothing, and does not begin again by itself."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        noded = await node.start()
        pid = await node.shows("one")
        await node.ready(1)
        await node.etcd.delete(keys.desired_of(NODE))
        await gone(node, pid)
        status = await node.reached(lambda status: status.phase == "idle", "idle")
        assert "no desired state" in status.reason
        await noded.kill()
        await node.start()
        await node.reached(lambda now: now.nonce != status.nonce and now.phase == "idle", "idle again")


async def test_driver_exec(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """The node changes from a program to a command, and what the command prints is the status."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        pid = await node.shows("one")
        code = "import json, sys; print(json.dumps({'lamp': json.load(sys.stdin)['scene']}))"
        spec = Spec(driver="exec", settings={"argv": ["{python}", "-c", code]}, document={"scene": "two"})
        await node.put(Desired(epoch=1, term=5, generation=2, spec=spec))
        assert (await node.ready(2)).actual == {"lamp": "two"}
        assert not runs(pid)


# --- who has the node ------------------------------------------------------------------------------------------------


async def test_other_host_waits_and_takes_over(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Two PCs with one name: the second drives nothing until the first's lease has ended."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start("--lease-ttl", "60")
        await node.shows("one")
        other = tmp_path / "other"
        second = await node.start(host_id="host-b", work=other)
        await node.says(second, "waits and drives nothing")
        before = await node.ready(1)
        await first.kill()
        assert not (other / "document.json").exists()
        claim = await node.etcd.get(keys.alive_of(NODE))
        assert claim is not None
        await node.etcd.revoke(claim.lease)
        await node.shows("one", work=other)
        status = await node.reached(lambda status: status.nonce != before.nonce, "the other host's status")
        alive = await node.alive()
        assert alive is not None
        assert (alive.host_id, alive.nonce) == ("host-b", status.nonce)


async def test_same_host_puts_over_and_the_older_one_ends(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A second noded of the same host has the node at once; the first stops its program and exits with an error."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start("--lease-ttl", "60")
        await node.shows("one")
        old = await node.ready(1)
        await node.start("--lease-ttl", "60")
        assert await first.ended() == 4
        assert "another noded has taken over node n1" in first.log
        assert "Traceback" not in first.log
        await node.shows("one", but_pid=old.actual["pid"])
        await node.reached(lambda now: now.phase == "ready" and now.nonce != old.nonce, "the new noded")
        assert not runs(old.actual["pid"])


@pytest.mark.skipif(sys.platform == "win32", reason="SIGSTOP")
async def test_paused_past_its_lease_it_finds_itself_replaced(
    etcd_one: EtcdCluster, keys: Keys, tmp_path: Path
) -> None:
    """A noded that slept while another host took the node writes nothing when it wakes, stops, and exits."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        first = await node.start()
        pid = await node.shows("one")
        old = await node.ready(1)
        child_processes.suspend(first.child.identity)
        other = tmp_path / "other"
        await node.start(host_id="host-b", work=other)
        await node.shows("one", work=other)
        new = await node.reached(lambda now: now.nonce != old.nonce and now.phase == "ready", "the other host")
        child_processes.resume(first.child.identity)
        assert await first.ended() == 4
        assert not runs(pid)
        assert (await node.ready(1)).nonce == new.nonce


# --- without etcd ----------------------------------------------------------------------------------------------------


async def test_without_etcd_the_work_goes_on(keys: Keys, tmp_path: Path) -> None:
    """etcd is down past the lease: the program runs on, is restarted when it crashes, and all is told afterwards."""
    cluster = EtcdCluster(1)
    try:
        cluster.spawn()
        await cluster.wait_healthy()
        async with rig(cluster, keys, tmp_path) as node:
            await node.order("one", 1)
            noded = await node.start()
            pid = await node.shows("one")
            old = await node.ready(1)
            cluster.members[0].kill()
            await eventually(lambda: "lease lost" in noded.log, lambda: noded.log, timeout_s=TIMEOUT_S)
            assert runs(pid)
            psutil.Process(pid).kill()
            shown = await node.runs_another(pid, noded)
            cluster.members[0].start()
            await cluster.wait_healthy()
            status = await node.reached(lambda now: now.actual.get("restarts") == 1, "the restart to be told")
            assert status.nonce == old.nonce
            assert await node.shows("one") == shown["pid"]
            await node.order("two", 2)
            await node.shows("two")
    finally:
        cluster.stop()


async def test_started_without_etcd_it_does_what_it_did_last(keys: Keys, tmp_path: Path) -> None:
    """A PC that boots during an outage comes up as it was; what etcd says afterwards wins, however old."""
    cluster = EtcdCluster(1)
    try:
        cluster.spawn()
        await cluster.wait_healthy()
        async with rig(cluster, keys, tmp_path) as node:
            await node.order("one", 7)
            first = await node.start()
            pid = await node.shows("one")
            await node.ready(7)
            await first.kill()
            await node.order("two", 6)  # lower than what the first noded obeyed, but this one has obeyed nothing yet
            cluster.members[0].kill()
            noded = await node.start("--start-wait", "0.2")
            shown = await node.runs_another(pid, noded)
            assert shown["document"] == {"scene": "one"}
            cluster.members[0].start()
            await cluster.wait_healthy()
            assert await node.shows("two") == shown["pid"]
            await node.ready(6)
    finally:
        cluster.stop()


# --- thrift ----------------------------------------------------------------------------------------------------------


async def test_status_is_written_once_a_change(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Ticks write nothing, and a change that succeeds is one write."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start("--tick", "0.05")
        await node.ready(1)
        versions = []
        for generation in (2, 3):
            await node.order(f"scene {generation}", generation)
            await node.ready(generation)
            found = await node.etcd.get(keys.status_of(NODE))
            assert found is not None
            versions.append(found.version)
        assert versions[1] == versions[0] + 1


async def test_damage_to_its_keys_is_put_right(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """A deleted or garbled claim is put again; the status of nobody is replaced with the next change."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        await node.ready(1)
        for damage in (None, b"garbage"):
            if damage is None:
                await node.etcd.delete(keys.alive_of(NODE))
            else:
                await node.etcd.put(keys.alive_of(NODE), damage)

            async def claimed() -> bool:
                found = await node.etcd.get(keys.alive_of(NODE))
                return found is not None and found.lease != 0

            await node.until(claimed, "the claim")
        await node.etcd.put(keys.status_of(NODE), b"garbage")
        await node.order("two", 2)

        async def told() -> bool:
            found = await node.etcd.get(keys.status_of(NODE))
            return found is not None and found.value != b"garbage"

        await node.until(told, "the status")
        await node.ready(2)


async def test_watch_sees_each_claim_and_status(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """What masterd mirrors are whole, readable models at every step."""
    async with rig(etcd_one, keys, tmp_path) as node:
        await node.order("one", 1)
        await node.start()
        async with asyncio.timeout(TIMEOUT_S):
            async for item in mirror(node.etcd, keys.status):
                pairs = (
                    [(kv.key, kv.value) for kv in item.kvs]
                    if isinstance(item, Listing)
                    else [(event.key, event.value or b"") for event in item.events]
                )
                if any(decode(Status, value, key).phase == "ready" for key, value in pairs):
                    break


# --- cut short -------------------------------------------------------------------------------------------------------


def running_programs(work: Path) -> list[int]:
    """Programs of noded that run in that work directory."""
    found = []
    for process in psutil.process_iter():
        try:
            if "NODECTL_DOCUMENT" in process.environ() and process.cwd() == str(work) and runs(process.pid):
                found.append(process.pid)
        except (psutil.Error, OSError):
            continue
    return found


@pytest.mark.skipif(sys.platform == "win32", reason="SIGKILL")
async def test_cut_after_each_step_the_next_one_converges(etcd_one: EtcdCluster, keys: Keys, tmp_path: Path) -> None:
    """Killed as soon as it has begun, claimed, begun to apply, started the program, and reported, over and over: the
    next noded ends up with one program, in the newest state."""
    async with rig(etcd_one, keys, tmp_path) as node:
        steps: list[Callable[[Noded], Awaitable[Any]]] = [
            lambda noded: node.says(noded, "starts;"),
            lambda noded: node.says(noded, "holds the claim"),
            lambda noded: node.says(noded, "applies by driver process"),
            lambda noded: node.until(lambda: _true(bool(running_programs(node.work))), "the program"),
            lambda noded: node.ready(5),
        ]
        for generation, step in enumerate(steps, 1):
            await node.order(f"scene {generation}", generation)
            noded = await node.start("--lease-ttl", "60")
            await step(noded)
            await noded.kill()
        before = node.shown()["pid"]  # it may not have ended yet
        await node.start("--lease-ttl", "60")
        pid = await node.shows(f"scene {len(steps)}", but_pid=before)
        await node.ready(len(steps))
        await node.until(lambda: _true(running_programs(node.work) == [pid]), "that program alone")


async def _true(value: bool) -> bool:
    return value


# --- access control --------------------------------------------------------------------------------------------------


async def test_least_privilege(keys: Keys, tmp_path: Path) -> None:
    """With the rights that docs/noded.md names, and no others, a node works; when they are taken away for a while,
    the work goes on."""
    cluster = EtcdCluster(1)
    try:
        cluster.spawn()
        await cluster.wait_healthy()
        await _restrict(cluster, keys)
        (tmp_path / "password").write_text("pw\n")
        root = EtcdSettings(cluster.endpoints, user="root", password="root")
        async with Etcd(root) as etcd:
            node = Rig(etcd, cluster.endpoints, keys, tmp_path)
            try:
                await node.order("one", 1)
                noded = await node.start("--user", NODE, "--password-file", str(tmp_path / "password"))
                pid = await node.shows("one")
                await node.ready(1)
                await _ctl(cluster, "--user=root:root", "user", "revoke-role", NODE, "noded")
                await node.says(noded, "cannot claim node n1")
                assert runs(pid)
                await _ctl(cluster, "--user=root:root", "user", "grant-role", NODE, "noded")
                await node.order("two", 2)
                await node.ready(2)
                assert await node.shows("two") == pid
            finally:
                await node.close()
    finally:
        cluster.stop()


async def _ctl(cluster: EtcdCluster, *command: str) -> None:
    etcd = find_etcd()
    argv = [str(etcd.with_name(etcd.name.replace("etcd", "etcdctl"))), f"--endpoints={cluster.endpoints[0]}", *command]
    done = await asyncio.to_thread(child_processes.run, argv, timeout_s=TIMEOUT_S)
    assert done.returncode == 0, done


async def _restrict(cluster: EtcdCluster, keys: Keys) -> None:
    """Turn access control on, with the user and the rights of one node."""
    await _ctl(cluster, "role", "add", "noded")
    rights = {keys.desired_of(NODE): "read", keys.status_of(NODE): "readwrite", keys.alive_of(NODE): "readwrite"}
    for key, right in rights.items():
        await _ctl(cluster, "role", "grant-permission", "noded", right, key)
    for user, role in ((f"{NODE}:pw", "noded"), ("root:root", "root")):
        await _ctl(cluster, "user", "add", user)
        await _ctl(cluster, "user", "grant-role", user.split(":")[0], role)
    await _ctl(cluster, "auth", "enable")
