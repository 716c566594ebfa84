"""A password of etcd's that is changed, or a user whose rights are taken away, while everything runs: nothing stops.

Tokens die with the change, streams only when a member restarts, which may be months later.
"""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import AsyncIterator, Awaitable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from nodestore.errors import Denied, LeaseLost, Unavailable
from nodestore.etcd.lease import Lease
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory
from tests.support.access.etcd_auth import PASSWORD, enable_auth
from tests.support.connection_tap import ConnectionTap
from tests.support.etcd_cluster import EtcdCluster, find_etcd
from tests.support.masters import Masterd, Masters
from tests.support.noded.noded_rig import NODE, Rig, runs
from tests.support.waiting import eventually
from tests.support.watching import observer

USER = "plain"
OLD, NEW = "old-secret", "new-secret"  # etcdctl takes a password up to its first blank
INVENTORY = Inventory.model_validate({"nodes": {"n1": {}}, "defaults": {"driver": {"name": "process"}}})
PATIENCE_S = 30.0
CALL_S = 20.0  # checking a password takes etcd long on a busy PC
LEASE_LOST_S = 90.0
"""A masterd believes in its lease for half a minute longer than etcd promised."""


@pytest.fixture(scope="module", autouse=True)
def _no_process_stays() -> Iterator[None]:
    yield
    Masterd.discard_warm()


async def ctl(cluster: EtcdCluster, *command: str, says: str = "") -> None:
    """Run etcdctl as root."""
    argv = [str(find_etcd().with_name("etcdctl")), f"--endpoints={cluster.endpoints[0]}", f"--user=root:{PASSWORD}"]
    argv += ["--dial-timeout=20s", "--command-timeout=20s", *command]
    done = await asyncio.to_thread(subprocess.run, argv, capture_output=True, input=says.encode(), check=False)
    assert done.returncode == 0, f"{command}: {done.stderr.decode()}"


class Guarded:
    """An etcd of one member with access control, and a user with all rights on our keys."""

    def __init__(self, cluster: EtcdCluster, keys: Keys, directory: Path) -> None:
        self.cluster, self.keys = cluster, keys
        self.file = directory / "password"
        self.file.write_text(f"{OLD}\n")

    @property
    def options(self) -> tuple[str, str]:
        return f"--user={USER}", f"--password-file={self.file}"

    def session(self, password: str = OLD, *, file: Path | None = None) -> Etcd:
        return Etcd(self._settings(password, file))

    def tapped_session(self, file: Path) -> tuple[Etcd, ConnectionTap]:
        """A session with the old password, and the tap of its connections."""
        settings = self._settings(OLD, file)
        tap = ConnectionTap(settings)
        return Etcd(settings, connect=tap.connect), tap

    def _settings(self, password: str, file: Path | None) -> EtcdSettings:
        return EtcdSettings(
            endpoints=self.cluster.endpoints, user=USER, password=password, password_file=file, call_timeout_s=CALL_S
        )

    async def ctl(self, *command: str, says: str = "") -> None:
        await ctl(self.cluster, *command, says=says)

    async def add(self, user: str) -> None:
        await self.ctl("user", "add", f"{user}:{OLD}")
        await self.ctl("user", "grant-role", user, USER)

    async def set_password(self, password: str, user: str = USER) -> None:
        await self.ctl("user", "passwd", user, "--interactive=false", says=f"{password}\n")

    async def break_streams(self) -> None:
        self.cluster.members[0].restart()
        await self.cluster.wait_healthy()


@asynccontextmanager
async def guarded(keys: Keys, directory: Path) -> AsyncIterator[Guarded]:
    async with EtcdCluster(1) as cluster:
        await enable_auth(cluster)
        made = Guarded(cluster, keys, directory)
        await made.ctl("role", "add", USER)
        await made.ctl("role", "grant-permission", USER, "readwrite", "--prefix", keys.prefix)
        await made.add(USER)
        yield made


# --- the session ------------------------------------------------------------------------------------------------------


async def test_a_session_waits_for_its_new_password(keys: Keys, tmp_path: Path) -> None:
    """A refusal at the start raises Denied.

    A later one raises Unavailable, and the login is retried with growing pauses until the file has the new password.
    Watches and calls then continue.
    """
    async with AsyncExitStack() as stack:
        store = await stack.enter_async_context(guarded(keys, tmp_path))
        etcd, tap = store.tapped_session(store.file)
        await stack.enter_async_context(etcd)
        async with store.session(NEW) as stranger:
            with pytest.raises(Denied):
                await stranger.get(keys.head)
            assert stranger.refusal is None
        await etcd.put(keys.head, b"1")
        before = tap.logins
        async with observer(etcd, keys.head) as seen:
            await store.set_password(NEW)
            await store.break_streams()
            tries = 0

            async def refused() -> bool:
                nonlocal tries
                tries += 1
                with pytest.raises(Unavailable, match=r"etcd refuses user plain.*write its current password into"):
                    await etcd.get(keys.head)
                return tap.logins - before >= 3

            await eventually(refused, "asked again")
            assert tries > 3 * (tap.logins - before)
            store.file.write_text("")  # just being written
            with pytest.raises(Unavailable, match="etcd refuses user plain"):
                await etcd.get(keys.head)
            assert seen.events == []
            store.file.write_text(f"{NEW}\n")
            await eventually(lambda: works(etcd.put(keys.head, b"2")), "it goes on with the new password")
            await eventually(lambda: [event.value for event in seen.events] == [b"2"], "the watch goes on too")
        assert etcd.refusal is None


async def test_a_session_waits_for_its_old_password(keys: Keys, tmp_path: Path) -> None:
    """Without a password file, the operator restores the old password in etcd.

    The lease expires meanwhile; a refusal alone does not lose it.
    """
    async with guarded(keys, tmp_path) as store, store.session() as etcd:
        lease = await Lease.grant(etcd, 8)
        keeping = asyncio.create_task(lease.keep_alive())
        await store.set_password(NEW)
        await store.break_streams()
        with pytest.raises(LeaseLost, match="etcd refuses user plain"):
            await keeping
        await store.set_password(OLD)
        await eventually(lambda: works(etcd.grant(1)), "another lease")


async def test_access_control_that_is_turned_on_later(keys: Keys) -> None:
    """A session without a user is refused then; what it has done so far makes that something to wait out."""
    async with (
        EtcdCluster(1) as cluster,
        Etcd(EtcdSettings(endpoints=cluster.endpoints, call_timeout_s=CALL_S)) as etcd,
    ):
        await etcd.put(keys.head, b"1")
        async with observer(etcd, keys.head) as seen:
            await enable_auth(cluster)
            cluster.members[0].restart()
            await cluster.wait_healthy()
            with pytest.raises(Unavailable, match="--user"):
                await etcd.put(keys.head, b"2")
            await ctl(cluster, "auth", "disable")
            await eventually(lambda: works(etcd.put(keys.head, b"3")), "it goes on")
            await eventually(lambda: [event.value for event in seen.events] == [b"3"], "the watch goes on too")
        assert etcd.refusal is None


async def works(call: Awaitable[Any]) -> bool:
    """Return whether etcd accepts the call now."""
    try:
        await call
    except Unavailable:
        return False
    return True


# --- noded ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mended", ["in the file", "in etcd"])
async def test_a_node_goes_on_under_a_changed_password(keys: Keys, tmp_path: Path, mended: str) -> None:
    """The program continues even after the claim has expired. noded reports the reason, and applies specs again once it
    can log in."""
    async with guarded(keys, tmp_path) as store, Etcd(root(store)) as etcd:
        node = Rig(etcd, store.cluster.endpoints, keys, tmp_path)
        try:
            await node.order("one", 1)
            noded = await node.start(*store.options)
            pid = await node.shows("one")
            await node.ready(1)
            await store.set_password(NEW)
            await store.break_streams()
            await node.says(noded, f"etcd refuses user {USER}, which it accepted before")
            await node.says(noded, "lease lost")
            assert noded.child.poll() is None
            assert runs(pid)
            if mended == "in the file":
                store.file.write_text(f"{NEW}\n")
            else:
                await store.set_password(OLD)
            await node.order("two", 2)
            await node.ready(2)
            assert await node.shows("two") == pid
            assert noded.log.count("etcd refuses user") - noded.log.count("cannot") <= 2, noded.log
        finally:
            await node.close()


def root(store: Guarded) -> EtcdSettings:
    return EtcdSettings(endpoints=store.cluster.endpoints, user="root", password=PASSWORD, call_timeout_s=CALL_S)


async def test_a_node_that_is_refused_at_its_start_waits(keys: Keys, tmp_path: Path) -> None:
    """It drives nothing that it does not know of, and begins when the password is right."""
    async with guarded(keys, tmp_path) as store, Etcd(root(store)) as etcd:
        node = Rig(etcd, store.cluster.endpoints, keys, tmp_path)
        try:
            store.file.write_text("wrong\n")
            await node.order("one", 1)
            noded = await node.start(*store.options)
            await node.says(noded, f"cannot claim node {NODE}: etcd refuses")
            store.file.write_text(OLD)
            await node.ready(1)
        finally:
            await node.close()


# --- masterd ----------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def playing(store: Guarded) -> AsyncIterator[Masters]:
    async with Masters(store.cluster, store.keys, arguments=store.options, user="root", password=PASSWORD) as masters:
        await masters.configure(INVENTORY)
        masters.start("m1")
        await masters.wait_serving("m1")
        await masters.command("node.set", node="n1", values={"x": 1})
        yield masters


async def shows(masters: Masters, name: str, words: str) -> None:
    """Until what is wrong, as that masterd shows it, has these words."""

    async def shown() -> bool:
        assert masters.running[name].exit_code is None, masters.running[name].log_tail()
        view = await masters.ask(name, "GET", "/v1/status?consistency=local")
        return any(words in problem for problem in view["problems"])

    await eventually(shown, f"{name} shows {words!r}", timeout_s=PATIENCE_S)


async def says(masters: Masters, name: str, words: str, timeout_s: float = PATIENCE_S) -> None:
    def said() -> bool:
        assert masters.running[name].exit_code is None, masters.running[name].log_tail()
        return words in masters.running[name].log_tail(10_000)

    await eventually(said, f"{name} says {words!r}", timeout_s=timeout_s)


async def test_a_master_goes_on_under_a_changed_password(keys: Keys, tmp_path: Path) -> None:
    """masterd refuses commands and reports the reason in its log and its status.

    With the new password in the file, the same process accepts commands again.
    """
    async with guarded(keys, tmp_path) as store, playing(store) as masters:
        await store.set_password(NEW)
        await store.break_streams()
        await shows(masters, "m1", f"m1: etcd refuses user {USER}, which it accepted before")
        await says(masters, "m1", f"write its current password into {store.file}")
        with pytest.raises(Unavailable):
            await masters.ask("m1", "GET", "/v1/leader?consistency=linearizable")
        store.file.write_text(f"{NEW}\n")
        await masters.command("node.set", node="n1", values={"x": 2})
        assert masters.running["m1"].exit_code is None
        assert await masters.problems() == []


@pytest.mark.nightly
@pytest.mark.timeout(300)
@pytest.mark.parametrize("taken", ["password", "role"])
async def test_a_master_whose_lease_runs_out_while_it_is_refused(keys: Keys, tmp_path: Path, taken: str) -> None:
    """Neither a refused login nor missing rights end it, though it loses lease, term and all that it watches."""
    async with guarded(keys, tmp_path) as store, playing(store) as masters:
        if taken == "password":
            await store.set_password(NEW)
        else:
            await store.ctl("user", "revoke-role", USER, USER)
        await store.break_streams()
        await says(masters, "m1", "lease lost", LEASE_LOST_S)
        await shows(masters, "m1", "etcd refuses")
        if taken == "password":
            await store.set_password(OLD)
        else:
            await store.ctl("user", "grant-role", USER, USER)
        await masters.command("node.set", node="n1", values={"x": 2})
        assert masters.running["m1"].exit_code is None
        assert await masters.problems() == []


async def test_a_leader_that_alone_is_refused_is_replaced(keys: Keys, tmp_path: Path) -> None:
    """Its streams, lease and heartbeats may continue.

    Its heartbeats report that it cannot commit, and a standby takes over.
    """
    async with guarded(keys, tmp_path) as store, playing(store) as masters:
        await store.add("other")
        (tmp_path / "other").write_text(OLD)
        masters.start("m2", arguments=("--user=other", f"--password-file={tmp_path / 'other'}"))
        await masters.wait_candidate("m2")
        await store.set_password(NEW)
        await masters.command("node.set", node="n1", values={"x": 2})
        await masters.wait_serving("m2")
        assert masters.running["m1"].exit_code is None
        store.file.write_text(f"{NEW}\n")
        await masters.switchover("m1")
        assert await masters.problems() == []


async def test_the_password_of_the_maintenance_user_alone(keys: Keys, tmp_path: Path) -> None:
    """Commands continue. The status shows that etcd's state cannot be read, and does not report etcd as unhealthy."""
    async with guarded(keys, tmp_path) as store:
        await store.add("keeper")
        await store.ctl("user", "grant-role", "keeper", "root")
        file = tmp_path / "keeper"
        file.write_text(OLD)
        options = (*store.options, "--maintenance-user=keeper", f"--maintenance-password-file={file}")
        async with Masters(store.cluster, keys, arguments=options, user="root", password=PASSWORD) as masters:
            masters.start("m1")
            await masters.wait_serving("m1")
            await eventually(lambda: healthy(masters), "the members are seen", timeout_s=PATIENCE_S)
            await store.set_password(NEW, "keeper")
            await shows(masters, "m1", "m1: etcd refuses user keeper")
            view = await masters.ask("m1", "GET", "/v1/status")
            assert not any("quorum" in problem for problem in view["problems"]), view["problems"]
            await masters.configure(INVENTORY)
            await masters.command("node.set", node="n1", values={"x": 1})
            file.write_text(NEW)
            await eventually(lambda: healthy(masters), "the members are seen again", timeout_s=PATIENCE_S)


async def healthy(masters: Masters) -> bool:
    """Return whether the status reports no problem of etcd."""
    view = await masters.ask("m1", "GET", "/v1/status?consistency=local")
    return all(member["healthy"] for member in view["members"]) and not any(
        "etcd" in problem for problem in view["problems"]
    )


async def test_a_master_that_is_refused_at_its_start_ends(keys: Keys, tmp_path: Path) -> None:
    """It ends with one line and the exit code for a refusal, because an operator starts it."""
    async with guarded(keys, tmp_path) as store:
        store.file.write_text("wrong\n")
        async with Masters(store.cluster, keys, arguments=store.options, user="root", password=PASSWORD) as masters:
            master = masters.start("m1")
            await eventually(lambda: master.exit_code is not None, "it ends", timeout_s=PATIENCE_S)
            assert master.exit_code == Denied.exit_code, master.log_tail()
            assert "stopped by an error: etcd refuses: authentication failed" in master.log_tail()
