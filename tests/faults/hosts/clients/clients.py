"""The client processes of a run, as the run controls them: their recordings so far, and how they ended."""

from __future__ import annotations

import json
import subprocess
import sys
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.faults.hosts.lan import namespaces
from tests.faults.hosts.lan.pc import CLUSTER
from tests.faults.hosts.lan.site import Hosts

_STOP_S = 60.0
EVENTS_KEPT = 20_000
_TIMES_KEPT = 50_000
_TAIL_BYTES = 4096
_WORKS = 5


class Program:
    """A process that ends when its standard input ends."""

    def __init__(self, name: str, argv: Sequence[str], directory: Path) -> None:
        """argv: the command line. Its output goes to `<name>.log` in the directory."""
        self.name = name
        with (directory / f"{name}.log").open("ab") as output:
            self._process = subprocess.Popen(
                argv,
                cwd=namespaces.ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output, start_new_session=True,
            )  # fmt: skip  # a session of its own: Ctrl-C ends only the run, which then ends this process

    @property
    def problem(self) -> str | None:
        """The finding about how it ended; None while it runs, or if it ended with code 0."""
        code = self._process.poll()
        return f"the client {self.name} ended with code {code}: see {self.name}.log" if code else None

    @property
    def running(self) -> bool:
        return self._process.poll() is None

    def stop(self, last_words: str = "") -> None:
        """End it and wait; kill it if it does not end within 60 s, which `problem` then reports."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(last_words.encode())
            self._process.stdin.close()
        except OSError:  # it has ended already: its exit code tells why
            pass
        try:
            self._process.wait(_STOP_S)
        except subprocess.TimeoutExpired:
            self.kill()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait(_STOP_S)


def module_command(module: str, given: Mapping[str, Any]) -> list[str]:
    """The command line of a module of ours that takes its settings as JSON."""
    return [sys.executable, "-m", module, json.dumps(given)]


class Caller(Program):
    """A client process that sends commands. Only what is recent is kept in memory: a run may take hours."""

    def __init__(self, hosts: Hosts, directory: Path, **settings: Any) -> None:
        self.history = directory / f"history-{settings['name']}.jsonl"
        given = {"cluster": CLUSTER, "nodes": list(hosts.pcs), "history": str(self.history), **settings}
        super().__init__(settings["name"], module_command("tests.faults.hosts.clients.caller", given), directory)
        self.follow()

    def follow(self) -> None:
        """Follow its recording from the begin on."""
        self.events: deque[dict[str, Any]] = deque(maxlen=EVENTS_KEPT)
        self.acknowledgements: deque[float] = deque(maxlen=_TIMES_KEPT)
        """When its commands were acknowledged, on the monotonic clock."""
        self.heard_at = 0.0
        """When its reader received the latest event of the journal's stream."""
        self._commands: set[int] = set()
        self._member = ""
        self._read = 0

    def look(self) -> None:
        if not self.history.exists():
            return
        with self.history.open("rb") as file:
            file.seek(self._read)
            for line in file:
                if not line.endswith(b"\n"):
                    break
                self._read += len(line)
                self._take(json.loads(line))

    def _take(self, event: dict[str, Any]) -> None:
        self.events.append(event)
        if event["type"] == "seen":
            if event["op"] == "event":
                self.heard_at = event["at"]
            self._member = event.get("member", self._member)
        elif event["type"] == "invoke":
            if event["op"] == "command":
                self._commands.add(event["call"])
        elif event["call"] in self._commands:
            self._commands.remove(event["call"])
            if event["type"] == "ok":
                self.acknowledgements.append(event["at"])

    def acknowledged(self, since: float) -> list[float]:
        self.look()
        return [at for at in self.acknowledgements if at > since]

    def last(self, before: float) -> float:
        self.look()
        return max(at for at in self.acknowledgements if at <= before)

    def member(self) -> str:
        self.look()
        return self._member


class Readers(Program):
    """The process of the readers, each of which reads the stream of one master."""

    def __init__(self, hosts: Hosts, directory: Path) -> None:
        masters = {f"raw-{name}": pc.url for name, pc in hosts.pcs.items()}
        self.streams = {name: directory / f"stream-{name}.jsonl" for name in masters}
        given = {"masters": masters, "directory": str(directory)}
        super().__init__("readers", module_command("tests.faults.hosts.clients.raw_readers", given), directory)

    def silent(self, since: float) -> list[str]:
        """Return the readers without an event since then."""
        return [name for name, path in self.streams.items() if last_heard(path) <= since]


@dataclass
class Clients:
    """Two that send commands, one that reads the journal through the library, and readers of each master's stream."""

    callers: Sequence[Caller]
    reader: Caller
    readers: Readers

    @property
    def programs(self) -> list[Program]:
        return [*self.callers, self.reader, self.readers]

    @property
    def ended(self) -> list[str]:
        """The clients that have ended by themselves."""
        return [f"the client {one.name} has ended: see {one.name}.log" for one in self.programs if not one.running]

    def behind(self, since: float) -> list[str]:
        """Return the clients without answers since then."""
        behind = [caller.name for caller in self.callers if len(caller.acknowledged(since)) <= _WORKS]
        self.reader.look()
        behind += [self.reader.name] if self.reader.heard_at <= since else []
        return behind + self.readers.silent(since)

    def stop(self) -> None:
        for program in self.programs:
            program.stop()


def last_heard(path: Path) -> float:
    """Return when the latest event came, by the end of a reader's recording; 0 if none did."""
    if not path.exists():
        return 0.0
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _TAIL_BYTES))
        lines = file.read().split(b"\n")[:-1]
    return max((json.loads(line)["at"] for line in lines if line.endswith(b"}") and _is_event(line)), default=0.0)


def _is_event(line: bytes) -> bool:
    return line.startswith(b"{") and b'"op":"event"' in line


def problems(programs: Sequence[Program]) -> list[str]:
    return [program.problem for program in programs if program.problem is not None]
