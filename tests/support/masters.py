"""Real masterd processes for tests, and checks of the store, which is read directly from etcd.

`async with Masters(cluster, keys) as masters`: `masters.start("m1")` starts one, `masters.command(...)` sends a
command until it is acknowledged, `masters.problems()` checks the store.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, ClassVar, Self

import aiohttp

from masterd.application.scenes import BuiltinApp
from masterd.replication.snapshots import Snapshots
from masterd.state_machine.specs import SpecDeriver
from masterd.state_machine.state import State
from masterd.state_machine.transaction import Overlay
from masterd.state_machine.views import all_views
from nodestore.cluster.election import LeaderSeen, parse_leader
from nodestore.errors import Garbage, NodectlError, OutcomeUnknown, from_code
from nodestore.etcd.session import KV, Etcd, EtcdSettings
from nodestore.etcd.watch import follow
from nodestore.schema.keys import Keys, prefix_end
from nodestore.schema.models import Applied, ConfigRecord, Entry, Head, Inventory, Term, TermRecord, decode
from nodestore.support.jsonio import Document, dumps, loads
from tests.support.etcd_cluster import EtcdCluster, free_ports
from tests.support.images import decode_image
from tests.support.waiting import eventually

_ROOT = Path(__file__).parents[2]
_START_S = 60.0
_ANSWER_S = 10.0
_PATIENT = "--timing=slow"
"""Makes standbys patient: no test expects a takeover because a busy machine silenced the leader for 0.3 s."""
UNTIL_IT_DIES = ("--lease-ttl=60", "--missed=20", "--silence=30")
"""A leader then leads until it dies or hands over, however busy the machine is."""
_AGAIN = ("unavailable", "not_leader", "leadership_lost", "outcome_unknown", "timed_out", "no_space")


class Masterd:
    """One masterd process. It has imported its modules and waits for `begin`."""

    _warm: ClassVar[deque[Masterd]] = deque()

    def __init__(self) -> None:
        handle, name = tempfile.mkstemp(prefix="nodectl-masterd-", suffix=".log")
        self.log = Path(name)
        with os.fdopen(handle, "ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "tests.faults.cut_masterd"],
                cwd=_ROOT, stdin=subprocess.PIPE, stdout=output, stderr=output,
            )  # fmt: skip
        self.name = ""
        self.url = ""

    @classmethod
    def take(cls, ahead: int = 2) -> Masterd:
        """Return a waiting process, and start new ones until `ahead` are waiting."""
        taken = cls._warm.popleft() if cls._warm else cls()
        while len(cls._warm) < ahead:
            cls._warm.append(cls())
        return taken

    @classmethod
    def discard_warm(cls) -> None:
        """Kill the waiting processes. Call it at the end of a test run."""
        while cls._warm:
            cls._warm.popleft().kill()

    def begin(self, name: str, url: str, argv: Sequence[str], cut: str | None, small: bool) -> None:
        self.name, self.url = name, url
        assert self.process.stdin is not None
        self.process.stdin.write(dumps({"argv": list(argv), "cut": cut, "small": small}) + b"\n")
        self.process.stdin.flush()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, or minus the signal that ended it; None while it runs."""
        return self.process.poll()

    def kill(self) -> None:
        """Kill it (SIGKILL) and delete its log."""
        self.process.kill()
        self.process.wait()
        if self.process.stdin is not None:
            with contextlib.suppress(OSError):
                self.process.stdin.close()
        self.log.unlink(missing_ok=True)

    def terminate(self) -> None:
        """Send SIGTERM. Windows has no such signal for a process without a console, so there it is killed."""
        self.process.terminate()

    def log_tail(self, lines: int = 25) -> str:
        text = self.log.read_text("utf-8", "replace") if self.log.exists() else ""
        return "\n".join(text.splitlines()[-lines:])


@dataclass
class History:
    """All entries that were ever put into the journal, including truncated ones, and those that are retained."""

    puts: list[tuple[KV, Entry]] = field(default_factory=list)
    retained: list[Entry] = field(default_factory=list)
    chunks: dict[str, bytes] = field(default_factory=dict)
    """The chunks of all snapshots, including deleted ones, by key without the prefix of snapshots."""

    def fold(self, up_to: int) -> State:
        """Return the state after index `up_to`. Skips entries out of sequence, which `_gaps_and_doubles` reports."""
        state = State()
        for _, entry in self.puts:
            if entry.first == state.index + 1 and entry.last <= up_to:
                state.apply(entry, self.images(entry))
        return state

    def images(self, entry: Entry) -> dict[str, dict[str, Document]]:
        """Return the documents of the snapshots that the entry restores."""
        names = {record.restore for record in entry.commands if record.restore is not None}
        return {name: self._documents(name) for name in names}

    def _documents(self, name: str) -> dict[str, Document]:
        keys = sorted(key for key in self.chunks if key.startswith(f"{name}/") and not key.endswith("/manifest"))
        image = decode_image([self.chunks[key] for key in keys], name)
        return {path: doc.value for path, doc in image.documents.items()}


class Masters:
    """The masterds of one cluster, and the commands that a test has sent to it."""

    def __init__(self, cluster: EtcdCluster, keys: Keys, *, arguments: Sequence[str] = (), small: bool = False,
                 user: str | None = None, password: str | None = None) -> None:  # fmt: skip
        self.keys = keys
        self.etcd = Etcd(
            EtcdSettings(endpoints=cluster.endpoints, user=user, password=password, call_timeout_s=_ANSWER_S)
        )
        self.running: dict[str, Masterd] = {}
        self.acknowledged: dict[str, int] = {}
        """The indexes of acknowledged commands by id."""
        self._endpoints, self._arguments, self._small = cluster.endpoints, arguments, small
        self._session = aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=_ANSWER_S))
        self._begun = 0
        self._sent = 0

    async def __aenter__(self) -> Self:
        self._begun = (await self.etcd.range(self.keys.prefix, keys_only=True)).revision + 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            for master in self.running.values():
                state = "runs" if master.exit_code is None else f"ended with {master.exit_code}"
                print(f"--- {master.name} {state}\n{master.log_tail()}", file=sys.stderr)  # noqa: T201 - pytest shows it
        for master in self.running.values():
            master.kill()
        await self._session.close()
        await self.etcd.close()

    # --- processes ---

    def start(self, name: str, *, cut: str | None = None, arguments: Sequence[str] = ()) -> Masterd:
        """Start a masterd without waiting until it works. cut: the transaction at which it dies, see `cut_masterd`."""
        if name in self.running:
            self.running.pop(name).kill()
        port = free_ports(1)[0]
        argv = [
            f"--id={name}", f"--host={name}", f"--cluster={self.keys.cluster}", f"--listen=127.0.0.1:{port}",
            f"--endpoints={','.join(self._endpoints)}", _PATIENT, *self._arguments, *arguments,
        ]  # fmt: skip
        master = self.running[name] = Masterd.take()
        master.begin(name, f"http://127.0.0.1:{port}", argv, cut, self._small)
        return master

    async def wait_candidate(self, name: str) -> None:
        """Wait until its candidacy is in etcd."""

        async def announced() -> bool:
            self._check(name)
            return await self.etcd.get(self.keys.candidate(name)) is not None

        await eventually(announced, f"{name} is a candidate", timeout_s=_START_S)

    async def wait_serving(self, name: str, timeout_s: float = _START_S) -> None:
        """Wait until it answers as the leader."""

        async def serving() -> bool:
            self._check(name)
            with contextlib.suppress(NodectlError):
                return str((await self._ask(name, "GET", "/v1/health"))["role"]) == "leader"
            return False

        await eventually(serving, f"{name} leads", timeout_s=timeout_s)

    async def wait_killed(self, name: str) -> None:
        """Wait until it has killed itself (see `cut_masterd`). Raises AssertionError if it ended in another way."""
        master = self.running[name]
        await eventually(lambda: master.exit_code is not None, f"{name} dies", timeout_s=_START_S)
        expected = 9 if os.name == "nt" else -9
        assert master.exit_code == expected, f"{name} ended by itself, with {master.exit_code}:\n{master.log_tail()}"

    async def expire(self, name: str) -> None:
        """End the term of a masterd that died by revoking its lease, so that the test need not wait."""
        leader = await self.leader()
        if leader.record is not None and leader.record.id == name:
            await self.etcd.revoke(leader.lease)

    def _check(self, name: str) -> None:
        ended = self.running[name].exit_code
        assert ended is None, f"{name} has ended with {ended}:\n{self.running[name].log_tail()}"

    # --- requests ---

    async def _ask(
        self, name: str, method: str, path: str, body: Any = None, token: str | None = None
    ) -> dict[str, Any]:
        """Return the answer of that masterd. Raises the error that it answers, or OutcomeUnknown without an answer."""
        headers = {} if body is None else {"Content-Type": "application/json"}
        if token is not None:
            headers["Authorization"] = f"Bearer {token}"
        try:
            async with self._session.request(
                method,
                self.running[name].url + path,
                data=None if body is None else dumps(body),
                headers=headers,
            ) as answer:
                value = loads(await answer.read(), path)
                if answer.status >= 400:
                    raise from_code(str(value.get("code")), str(value.get("detail")))
                return dict(value)
        except (aiohttp.ClientError, TimeoutError, Garbage) as error:
            raise OutcomeUnknown(f"{name} {method} {path}: {error!r}") from None

    async def ask(
        self, name: str, method: str, path: str, body: Any = None, *, token: str | None = None
    ) -> dict[str, Any]:
        """Send one request to one masterd, without retries. token: of its sender."""
        return await self._ask(name, method, path, body, token)

    async def commands(self, *commands: tuple[str, dict[str, Any]], via: str = "") -> list[dict[str, Any]]:
        """Send these in one request, to each running masterd in turn, until each is acknowledged or refused."""
        body: list[dict[str, Any]] = []
        for name, args in commands:
            self._sent += 1
            body.append({"id": f"cmd-{self._sent}", "after": 0, "name": name, "args": args, "actor": "test"})
        answers: dict[str, dict[str, Any]] = {}

        async def acknowledged() -> bool:
            names = [via] if via else []
            for name in [*names, *(other for other in self.running if other != via)]:
                if self.running[name].exit_code is not None:
                    continue
                with contextlib.suppress(NodectlError):
                    left = [command for command in body if command["id"] not in answers]
                    for result in (await self._ask(name, "POST", "/v1/commands", {"commands": left}))["results"]:
                        if result.get("problem", {}).get("code") not in _AGAIN:
                            answers[result["id"]] = result
                if len(answers) == len(body):
                    return True
            return False

        await eventually(acknowledged, "all commands are acknowledged", timeout_s=30.0)
        self.acknowledged |= {known: answer["index"] for known, answer in answers.items() if "index" in answer}
        return [answers[command["id"]] for command in body]

    async def command(self, name: str, /, **args: Any) -> dict[str, Any]:
        return (await self.commands((name, args)))[0]

    async def wait_for_snapshot(self, within: int) -> None:
        """Wait for a complete snapshot whose index is at most `within` behind head."""

        async def written() -> bool:
            head = decode(Head, (await self._key(self.keys.head)).value, self.keys.head).index
            manifests = await Snapshots(self.etcd, self.keys).manifests()
            return any(head - manifest.index <= within for manifest in manifests.values())

        await eventually(written, "a snapshot is written", timeout_s=_START_S)

    async def switchover(self, to: str) -> None:
        """Switch over from the present leader, and wait until `to` leads or has ended."""

        async def done() -> bool:
            leader = await self.leader()
            if self.running[to].exit_code is not None or (leader.record is not None and leader.record.id == to):
                return True
            if leader.record is not None:
                with contextlib.suppress(NodectlError):
                    body = {"to": to, "actor": "test"}
                    await self._ask(leader.record.id, "POST", "/v1/leader/switchover", body)
            return False

        await eventually(done, f"{to} has taken over", timeout_s=_START_S)

    # --- the store ---

    async def leader(self) -> LeaderSeen:
        return parse_leader(await self.etcd.get(self.keys.leader))

    async def configure(self, inventory: Inventory, version: int = 1) -> None:
        """Write config/current, as nodectl does with etcd endpoints."""
        record = ConfigRecord(
            version=version, actor="test", time=0.0, inventory=json.loads(inventory.model_dump_json())
        )
        await self.etcd.put(self.keys.config_current, record.encode())

    async def history(self) -> History:
        """Read all entries and snapshots from etcd's history, which a truncation of the journal does not remove."""
        found, history = await self.etcd.range(self.keys.journal), History()
        history.retained = [decode(Entry, kv.value, kv.key) for kv in found.kvs]
        marker = await self.etcd.put(f"{self.keys.prefix}~end", b"")
        stream = follow(self.etcd, self.keys.prefix, end=prefix_end(self.keys.prefix), revision=self._begun)
        async with contextlib.aclosing(stream):
            async for changes in stream:
                for event in changes.events:
                    if event.value is not None and event.key.startswith(self.keys.snapshots):
                        history.chunks[event.key.removeprefix(self.keys.snapshots)] = event.value
                    if event.value is not None and event.key.startswith(self.keys.journal):
                        kv = KV(event.key, event.value, event.create_revision, event.mod_revision, 1, event.lease)
                        history.puts.append((kv, decode(Entry, event.value, event.key)))
                if changes.events and changes.events[-1].mod_revision >= marker:
                    break
        return history

    async def problems(self) -> list[str]:
        """Return the findings about the store of a cluster at rest; empty if it is correct."""
        history = await self.history()
        head = decode(Head, (await self._key(self.keys.head)).value, self.keys.head)
        state = history.fold(head.index)
        return [
            *_gaps_and_doubles(history, head),
            *self._lost(history),
            *await self._deposed(history),
            *await self.view_problems(state, head),
            *await self._configuration(state),
            *await self._snapshots(history, state),
        ]

    async def _key(self, key: str) -> KV:
        found = await self.etcd.get(key)
        assert found is not None, f"{key} is missing"
        return found

    def _lost(self, history: History) -> list[str]:
        """Check that each acknowledged command is in the journal at its index, and no command twice."""
        at: dict[str, list[int]] = {}
        for _, entry in history.puts:
            for record in entry.commands:
                at.setdefault(record.id, []).append(record.index)
        wrong = [f"command {known} took effect at {indexes}" for known, indexes in at.items() if len(indexes) > 1]
        return wrong + [
            f"command {known} was acknowledged as {index}, the journal has it at {at.get(known)}"
            for known, index in self.acknowledged.items()
            if at.get(known) != [index]
        ]

    async def _deposed(self, history: History) -> list[str]:
        """Check that every entry names the term that was in force when it was written."""
        found = (await self.etcd.range(self.keys.terms)).kvs
        terms = sorted(kv.create_revision for kv in found if decode(TermRecord, kv.value, kv.key))
        wrong = []
        for kv, entry in history.puts:
            in_force = max((revision for revision in terms if revision < kv.mod_revision), default=0)
            if entry.term != in_force:
                wrong.append(f"{kv.key} was written by term {entry.term} while {in_force} was in force")
        return wrong

    async def view_problems(self, state: State, head: Head) -> list[str]:
        """Check that the views match the state, whichever term wrote them, and that `applied` is complete."""
        derivation = SpecDeriver(BuiltinApp())
        derivation.rebuild(state.inventory, Overlay(state, state.inventory, 0.0))
        wanted = all_views(self.keys, Term(1, 0), state, derivation)
        found: dict[str, bytes] = {}
        for prefix in (self.keys.state, self.keys.desired, self.keys.actions):
            found |= {kv.key: kv.value for kv in (await self.etcd.range(prefix)).kvs}
        wrong = [f"view {key} differs" for key in sorted(wanted.keys() | found.keys())
                 if _without_term(wanted.get(key)) != _without_term(found.get(key))]  # fmt: skip
        applied = decode(Applied, (await self._key(self.keys.applied)).value, self.keys.applied)
        if (applied.index, applied.base, applied.through) != (head.index, head.index, None):
            wrong.append(f"applied is {applied.model_dump()}, head is at {head.index}")
        return wrong

    async def _configuration(self, state: State) -> list[str]:
        """Check that the applied configuration is adopted."""
        written = await self.etcd.get(self.keys.config_current)
        if written is None:
            return []
        adopted = state.adopted.revision if state.adopted else None
        return [] if adopted == written.mod_revision else ["config/current is not adopted"]

    async def _snapshots(self, history: History, state: State) -> list[str]:
        """Check that no snapshot is incomplete, and that the two newest ones that hold command ids are correct.

        Each of the two must be the state of its index, and must yield the present state with the retained journal.
        """
        snapshots = Snapshots(self.etcd, self.keys)
        manifests = {name: manifest for name, manifest in (await snapshots.manifests()).items() if manifest.has_ids}
        wrong = [f"snapshot {name} is a fragment" for name in await snapshots.fragments()]
        if not self._small:
            return wrong
        if len(manifests) < 2:
            wrong.append(f"there are only {len(manifests)} snapshots")
        for name, manifest in list(manifests.items())[:2]:
            try:
                loaded = (await snapshots.read(name, manifest)).to_state()
            except Garbage as error:
                wrong.append(str(error))
                continue
            if _essence(loaded) != _essence(history.fold(loaded.index)):
                wrong.append(f"snapshot {name} is not the state of its index")
            try:
                for entry in history.retained:
                    if entry.first > loaded.index:
                        loaded.apply(entry, history.images(entry))
            except Garbage as error:
                wrong.append(f"snapshot {name}: {error}")
            if _essence(loaded) != _essence(state):
                wrong.append(f"snapshot {name} and the retained journal are not the state")
        return wrong


def _gaps_and_doubles(history: History, head: Head) -> list[str]:
    indexes = [record.index for _, entry in history.puts for record in entry.commands]
    wrong = [] if indexes == list(range(1, head.index + 1)) else [f"indexes are not 1 to {head.index}: {indexes}"]
    terms = [(entry.epoch, entry.term) for _, entry in history.puts]
    if terms != sorted(terms):
        wrong.append(f"terms go back: {terms}")
    written = [kv.key for kv, _ in history.puts]
    return wrong + [f"{key} was written twice" for key in set(written) if written.count(key) > 1]


def _essence(state: State) -> list[Any]:
    return [state.index, state.documents, state.specs, state.adopted, state.ids, state.floor]


def _without_term(view: bytes | None) -> Any:
    value = None if view is None else loads(view)
    if isinstance(value, dict):
        value.pop("term", None)
    return value
