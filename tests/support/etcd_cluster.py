"""Real etcd clusters for tests: free loopback ports, a temporary directory, the shipped election timing.

The health of members is read from their metrics port, not through the session under test. So it also works with TLS,
with access control, and when that session is broken.
"""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from nodectl.etcd_binary import find
from nodestore.etcd.member_defaults import MemberConfig

# Tests read etcd's own history of a whole run, which compaction by time would cut.
_SETTINGS = {"auto-compaction-mode": "revision", "auto-compaction-retention": "20000"}
# Below the ephemeral range, whose ports any outgoing connection may take while their member is down.
_PORTS = range(15_000, 32_000)
_PREFIX = "nodectl-etcd-"
_HEALTHY_S = 30.0
_ANSWER_S = 0.5
_DICE = random.SystemRandom()  # parallel test runs share the seed of the other generator

# Linux's die-with-parent is a property of the process itself and survives exec; the parent may be gone already.
_TRAMPOLINE = """
import ctypes, os, signal, sys
ctypes.CDLL(None).prctl(1, signal.SIGKILL)
if os.getppid() != int(sys.argv[1]):
    sys.exit(0)
os.execv(sys.argv[2], sys.argv[2:])
"""


def find_etcd() -> Path:
    """Return the etcd program to test with: installed or downloaded, and checked, as the project itself does it."""
    return find.find_etcd().server


def sweep() -> None:
    """Remove the directories of test runs that were killed. Their processes died with them."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        owner = path.name.removeprefix(_PREFIX).split("-", 1)[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def free_ports(count: int) -> list[int]:
    """Return `count` ports on 127.0.0.1 at which no program listens now."""
    found: list[int] = []
    while len(found) < count:
        port = _DICE.choice(_PORTS)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


@dataclass(frozen=True, kw_only=True)
class Tls:
    """Certificate files of the members' client port; with `client_auth`, clients must show one of the same CA."""

    ca: Path
    cert: Path
    key: Path
    client_auth: bool = False

    def settings(self) -> dict[str, str]:
        settings = {"cert-file": str(self.cert), "key-file": str(self.key)}
        if self.client_auth:
            settings |= {"trusted-ca-file": str(self.ca), "client-cert-auth": "true"}
        return settings


class Member:
    """One etcd process. Its data survive `kill()` and `restart()`."""

    def __init__(self, name: str, directory: Path, argv: Sequence[str], endpoint: str, metrics: str) -> None:
        self.name = name
        self.endpoint = endpoint
        self._metrics = metrics
        self._argv = list(argv)
        self._directory = directory
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def metrics(self) -> str:
        """The URL at which it reports its health and its figures, without TLS."""
        return self._metrics

    @property
    def pid(self) -> int:
        if self._process is None:
            raise RuntimeError(f"etcd member {self.name} does not run")
        return self._process.pid

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def start(self) -> None:
        """Start the process. It is not yet healthy when it returns."""
        argv = self._argv
        if sys.platform == "linux":
            argv = [sys.executable, "-I", "-S", "-c", _TRAMPOLINE, str(os.getpid()), *argv]
        with (self._directory / f"{self.name}.log").open("ab") as output:
            self._process = subprocess.Popen(
                argv, stdin=subprocess.DEVNULL, stdout=output, stderr=output, cwd=self._directory
            )

    def kill(self) -> None:
        """kill -9; its sockets close at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def terminate(self) -> None:
        """Send SIGTERM and wait for the end. A member that leads etcd first moves its leadership."""
        if self._process is not None:
            self._process.send_signal(signal.SIGTERM)
            self._process.wait(10)
            self._process = None

    def pause(self) -> None:
        """Send SIGSTOP: its sockets stay open, but it answers nothing."""
        psutil.Process(self.pid).suspend()

    def resume(self) -> None:
        psutil.Process(self.pid).resume()

    def restart(self) -> None:
        """kill -9 if it runs, and start again with its data."""
        self.kill()
        self.start()

    def healthy(self) -> bool:
        """Whether it has just answered a linearizable read. Blocks for up to half a second."""
        return '"health":"true"' in self._ask("/health").replace(" ", "")

    def leads(self) -> bool:
        """Whether it reports that it is etcd's leader. Blocks for up to half a second."""
        return "\netcd_server_is_leader 1" in self._ask("/metrics")

    def log_tail(self, lines: int = 15) -> str:
        path = self._directory / f"{self.name}.log"
        text = path.read_text("utf-8", "replace") if path.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    def _ask(self, path: str) -> str:
        try:
            with urllib.request.urlopen(self._metrics + path, timeout=_ANSWER_S) as answer:
                return str(answer.read().decode())
        except urllib.error.HTTPError as refusal:
            refusal.close()
            return ""
        except OSError:
            return ""


class EtcdCluster:
    """`size` members. `start()` blocks until all are healthy; in a coroutine use `async with`.

    `advertised_peer_ports`: the ports at which members reach one another (default: `peer_ports`). With other ones a
    test can put proxies between them.
    """

    def __init__(
        self,
        size: int = 1,
        *,
        flags: Sequence[str] = (),
        tls: Tls | None = None,
        advertised_peer_ports: Sequence[int] | None = None,
        binary: Path | None = None,
        host: str = "127.0.0.1",
    ) -> None:
        etcd = binary or find_etcd()
        self.directory = Path(tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-"))
        ports = free_ports(3 * size)
        clients, self.peer_ports, metrics = ports[:size], ports[size : 2 * size], ports[2 * size :]
        address = f"[{host}]" if ":" in host else host
        seen = [f"http://{address}:{port}" for port in advertised_peer_ports or self.peer_ports]
        scheme = "https" if tls else "http"
        settings = {**_SETTINGS, **(tls.settings() if tls else {}), **dict(map(_setting, flags))}
        self.members: list[Member] = []
        for i in range(size):
            metrics_url = f"http://{address}:{metrics[i]}"
            config = MemberConfig(
                name=f"m{i + 1}",
                data_dir=self.directory / f"m{i + 1}",
                client_url=f"{scheme}://{address}:{clients[i]}",
                peer_url=f"http://{address}:{self.peer_ports[i]}",
                advertised_peer_url=seen[i],
                initial_cluster={f"m{number + 1}": url for number, url in enumerate(seen)},
                cluster_token=self.directory.name,
                settings={"listen-metrics-urls": metrics_url, **settings},
            )
            argv = config.command(etcd)
            self.members.append(Member(config.name, self.directory, argv, f"{address}:{clients[i]}", metrics_url))

    @property
    def endpoints(self) -> tuple[str, ...]:
        return tuple(member.endpoint for member in self.members)

    def member_at(self, endpoint: str) -> Member:
        """The member that listens at `endpoint`."""
        return next(member for member in self.members if member.endpoint == endpoint)

    def spawn(self) -> None:
        """Start all processes without waiting."""
        for member in self.members:
            member.start()

    def start(self) -> Self:
        """Start all and wait until they are healthy; for fixtures and other places without an event loop."""
        self.spawn()
        asyncio.run(self.wait_healthy())
        return self

    async def wait_healthy(self, *members: Member, timeout_s: float = _HEALTHY_S) -> None:
        """Wait until these members (default: all) answer linearizable reads."""
        wanted = members or tuple(self.members)
        deadline = time.monotonic() + timeout_s
        while not all(await asyncio.gather(*(asyncio.to_thread(member.healthy) for member in wanted))):
            self._check_progress(wanted, deadline)
            await asyncio.sleep(0.02)

    async def leader(self, timeout_s: float = _HEALTHY_S) -> Member:
        """Wait until exactly one member reports that it leads etcd; return it. Paused members do not block it."""
        deadline = time.monotonic() + timeout_s
        while True:
            running = [member for member in self.members if member.running]
            claims = await asyncio.gather(*(asyncio.to_thread(member.leads) for member in running))
            leaders = [member for member, claim in zip(running, claims, strict=True) if claim]
            if len(leaders) == 1:
                return leaders[0]
            self._check_progress((), deadline)
            await asyncio.sleep(0.02)

    def _check_progress(self, members: Sequence[Member], deadline: float) -> None:
        dead = [member for member in members if not member.running]
        if dead:
            raise RuntimeError(f"etcd member {dead[0].name} has ended:\n{dead[0].log_tail()}")
        if time.monotonic() > deadline:
            logs = "\n".join(f"{member.name}: {member.log_tail(5)}" for member in self.members)
            raise TimeoutError(f"the etcd cluster did not become healthy in time:\n{logs}")

    def mend(self) -> None:
        """Resume paused members and start those that ended. They are not yet healthy when it returns."""
        for member in self.members:
            if member.running:
                member.resume()
            else:
                member.restart()

    def stop(self) -> None:
        """Kill all members and remove the directory."""
        for member in self.members:
            member.kill()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.stop()
            raise

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        try:
            self.spawn()
            await self.wait_healthy()
        except BaseException:
            self.stop()
            raise
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def bump() -> list[str]:
    """The options of a restore as docs/recovery.md computes them: the bump is greater with each restore."""
    return [f"--bump-revision={time.time_ns() // 1_000_000}", "--mark-compacted"]


async def lose_and_restore(cluster: EtcdCluster, file: Path, options: Sequence[str], *others: Sequence[str]) -> None:
    """All members die and lose their disks; the backup is restored on each. `others`: another's options, by mistake."""
    for member in cluster.members:
        member.kill()
    etcdutl = find_etcd().with_name("etcdutl")
    peers = [f"http://127.0.0.1:{port}" for port in cluster.peer_ports]
    everybody = ",".join(f"{member.name}={peer}" for member, peer in zip(cluster.members, peers, strict=True))
    chosen = [*others, *[options] * (len(peers) - len(others))]
    for member, peer, own in zip(cluster.members, peers, chosen, strict=True):
        data = cluster.directory / member.name
        shutil.rmtree(data)
        command = [
            str(etcdutl), "snapshot", "restore", str(file), f"--name={member.name}", f"--data-dir={data}",
            f"--initial-cluster={everybody}", f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster-token=restored-{file.name}", *own,
        ]  # fmt: skip
        await asyncio.to_thread(subprocess.run, command, check=True, capture_output=True)
    cluster.spawn()
    await cluster.wait_healthy()


def _setting(flag: str) -> tuple[str, str]:
    """A flag of etcd's command line as a setting."""
    name, _, value = flag.removeprefix("--").partition("=")
    return name, value or "true"
