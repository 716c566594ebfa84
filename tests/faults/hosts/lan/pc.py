"""A PC: a host of the LAN with its etcd member, masterd and noded, its disk, and its power switch."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psutil

from nodestore.etcd.member_defaults import DEFAULT_SETTINGS, MemberConfig, environment
from tests.faults.hosts.lan.namespaces import ROOT
from tests.faults.hosts.lan.net import Lan, address

Program = Literal["etcd", "masterd", "noded"]
PROGRAMS: tuple[Program, ...] = ("etcd", "masterd", "noded")
CLUSTER = "hosts"
CLIENT, PEER, METRICS, API = 2379, 2380, 2381, 8401
_END_S = 20.0
# Tests read etcd's history of a whole run, which compaction by time would remove.
_HISTORY = {"auto-compaction-mode": "revision", "auto-compaction-retention": "200000"}
_SAYS_MORE = {"log-level": "info"}  # logs etcd's elections


@dataclass(frozen=True)
class Site:
    """The settings that all PCs of a run share."""

    directory: Path
    lan: Lan
    etcd: Path
    members: tuple[str, ...]
    python: Sequence[str] = (sys.executable,)
    masterd: Sequence[str] = ("masterd",)
    """The module of masterd, and its additional arguments."""

    def endpoints(self, first: str = "") -> list[str]:
        """Return the members' client addresses, beginning with that of `first`."""
        found = [f"{address(host)}:{CLIENT}" for host in self.members]
        turn = self.members.index(first) if first in self.members else int(first[1:]) % len(found) if first else 0
        return [*found[turn:], *found[:turn]]


@dataclass
class Pc:
    """One host, named `h<number>` like its master and its node."""

    name: str
    site: Site
    masters: tuple[str, ...] = ()
    wrapped: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The prefix of a program's command line, by its name; default: Python."""
    running: dict[Program, subprocess.Popen[bytes]] = field(default_factory=dict)
    powered: bool = False
    fresh_member: bool = True
    cut_at: float | None = None
    """If it lost its power: when the cable was certainly unplugged, on the monotonic clock."""
    plugged_at: float = 0.0

    @property
    def address(self) -> str:
        return address(self.name)

    @property
    def has_member(self) -> bool:
        return self.name in self.site.members

    @property
    def disk(self) -> Path:
        return self.site.directory / "disk" / self.name

    @property
    def url(self) -> str:
        return f"http://{self.address}:{API}"

    def programs(self) -> tuple[Program, ...]:
        return PROGRAMS if self.has_member else PROGRAMS[1:]

    def log(self, program: str) -> Path:
        return self.site.directory / "log" / f"{self.name}-{program}.log"

    # --- programs ---

    def start(self, program: Program) -> None:
        """Start a program unless it runs; return before it is ready."""
        if self.alive(program):
            return
        argv, env = self._command(program)
        self.disk.mkdir(parents=True, exist_ok=True)
        self.log(program).parent.mkdir(parents=True, exist_ok=True)
        with self.log(program).open("ab") as output:
            self.running[program] = subprocess.Popen(
                [*self.site.lan.enter(self.name), *argv],
                cwd=ROOT, env=env, stdin=subprocess.DEVNULL, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip

    def alive(self, program: Program) -> bool:
        process = self.running.get(program)
        return process is not None and process.poll() is None

    def _command(self, program: Program) -> tuple[list[str], dict[str, str]]:
        env = {key: value for key, value in os.environ.items() if not key.startswith(("NODECTL_", "ETCD_"))}
        if program == "etcd":
            return self._member().command(self.site.etcd), environment(env)
        common = ["--cluster", CLUSTER, "--endpoints", ",".join(self.site.endpoints(self.name))]
        module = self.site.masterd if program == "masterd" else (program,)
        prefix = [*self.wrapped.get(program, self.site.python), "-m", *module]
        if program == "masterd":
            own = [
                "--id", self.name, "--host", self.name, "--listen", f"{self.address}:{API}",
                "--max-txn-ops", DEFAULT_SETTINGS["max-txn-ops"],
                "--max-request-bytes", DEFAULT_SETTINGS["max-request-bytes"],
                "--local-member", f"{self.address}:{CLIENT}" if self.has_member else "none",
            ]  # fmt: skip
            env["NODECTL_INSECURE"] = "1"  # other hosts are served without TLS
        else:
            own = ["--node", self.name, "--work-dir", str(self.disk / "noded"), "--host-id", self.name]
        return [*prefix, *own, *common], env

    def _member(self) -> MemberConfig:
        return MemberConfig(
            name=self.name,
            data_dir=self.disk / "etcd" / "data",
            client_url=f"http://{self.address}:{CLIENT}",
            peer_url=f"http://{self.address}:{PEER}",
            initial_cluster={host: f"http://{address(host)}:{PEER}" for host in self.site.members},
            cluster_token=self.site.directory.name,
            existing=not self.fresh_member,
            settings={**_HISTORY, **_SAYS_MORE, "listen-metrics-urls": f"http://{self.address}:{METRICS}"},
        )

    def processes(self, program: Program) -> list[psutil.Process]:
        """Return the program's process and its descendants."""
        process = self.running.get(program)
        if process is None or process.poll() is not None:
            return []
        with contextlib.suppress(psutil.Error):
            top = psutil.Process(process.pid)
            return [top, *top.children(recursive=True)]
        return []

    def signal(self, program: Program, number: signal.Signals) -> None:
        for process in self.processes(program):
            with contextlib.suppress(psutil.Error):
                process.send_signal(number)

    def kill(self, program: Program) -> None:
        """Kill a program (SIGKILL) with its descendants."""
        self.signal(program, signal.SIGKILL)
        process = self.running.pop(program, None)
        if process is not None:
            process.kill()
            process.wait(_END_S)

    # --- the whole PC ---

    def power_on(self) -> None:
        """Plug in power and cable, and start all programs, as at boot."""
        if self.cut_at is not None:
            self.site.lan.replace(self.name)
            self.cut_at = None
        self.plugged_at = time.monotonic()
        self.site.lan.plug(self.name)
        self.powered = True
        for program in self.programs():
            self.start(program)

    def power_off(self) -> float:
        """Cut the power: unplug the cable first, so that no dying process can send a FIN, then kill all programs.

        Return the time before the cut, on the monotonic clock.
        """
        at = time.monotonic()
        self.site.lan.unplug(self.name)
        self.cut_at = time.monotonic()
        self.powered = False
        for program in PROGRAMS:
            self.kill(program)
        return at

    def pause(self, *programs: Program) -> None:
        """Stop programs (SIGSTOP); all of them if none is named."""
        for program in programs or PROGRAMS:
            self.signal(program, signal.SIGSTOP)

    def resume(self, *programs: Program) -> None:
        for program in programs or PROGRAMS:
            self.signal(program, signal.SIGCONT)

    def states(self, *programs: Program) -> dict[int, str]:
        """Return the state of each process of the programs (of all, if none is named) by pid, as psutil names it."""
        found: dict[int, str] = {}
        for process in [process for program in programs or PROGRAMS for process in self.processes(program)]:
            with contextlib.suppress(psutil.NoSuchProcess):
                found[process.pid] = process.status()
        return found

    def pid(self, program: Program) -> int | None:
        process = self.running.get(program)
        return None if process is None else process.pid

    def wipe(self) -> None:
        """Empty the disk of a PC without power."""
        places = [self.disk, self.disk / "etcd"]  # the latter may be a file system of its own
        for item in [item for place in places if place.exists() for item in place.iterdir()]:
            if item.is_file():
                item.unlink()
            elif not item.is_mount():
                shutil.rmtree(item)

    def room_bytes(self) -> int:
        """Return the free space of its member's disk in bytes."""
        found = os.statvfs(self.disk / "etcd")
        return found.f_bavail * found.f_frsize

    def log_tail(self, program: str, lines: int = 20) -> str:
        path = self.log(program)
        return "\n".join(path.read_text("utf-8", "replace").splitlines()[-lines:]) if path.exists() else ""
