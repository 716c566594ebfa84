"""The demo from start to end: start a cluster, run the acts, print the table of promises, remove everything.

Without `stay` nothing remains. The processes die with this one, however it ends. The directory is removed, also after
Ctrl-C (once or twice), SIGTERM, or when the terminal is closed. After a failure it is kept, for its logs.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
import secrets
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

from nodectl.demo.acts import Act, kill_leader, lose_member, show_scene, wipe_node
from nodectl.demo.freeze import freeze_leader
from nodectl.demo.interrupts import Ended, Signals
from nodectl.demo.narrator import Narrator
from nodectl.demo.stage import Stage
from nodectl.demo.traffic import Ledger
from nodectl.dev.cluster import DevCluster
from nodectl.dev.lock import locked
from nodectl.workload.verdicts import (
    Promise,
    find_duplicates,
    find_journal_faults,
    find_lost,
    find_unknown_effects,
    find_without_effect,
)
from nodestore.errors import Conflict, Invalid, NodectlError, Unavailable
from nodestore.etcd.session import Etcd

ACTS: tuple[Act, ...] = (
    Act("scene", "One command changes every node", "node", show_scene),
    Act("kill", "The leader is killed under load", "takeover", kill_leader),
    Act("freeze", "The leader is frozen, replaced, and resumed", "deposed", freeze_leader),
    Act("node", "A node loses its processes and its disk", "node", wipe_node),
    Act("member", "The leading member of etcd is killed under load", "member", lose_member),
)
_REMOVE_S = 5.0
_PREFIX = "nodectl-demo-"
_UNFINISHED = ".unfinished"


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """The options of a run.

    `stay`: leave the cluster running. `directory`: an empty or new directory for its files (None: a temporary one).
    `seed`: repeats the choices of an earlier run. `acts`: keys of ACTS; the acts run in the order of ACTS.
    `insecure`: without TLS.
    """

    stay: bool = False
    directory: Path | None = None
    seed: int | None = None
    acts: Sequence[str] = tuple(act.key for act in ACTS)
    insecure: bool = False


@dataclass(frozen=True)
class DemoOutcome:
    """The result of a run. `took_s`: seconds."""

    seed: int
    promises: list[Promise]
    took_s: float

    @property
    def held(self) -> bool:
        """Whether every tested promise held, and at least one was tested."""
        tried = [promise for promise in self.promises if promise.was_tested or promise.faults]
        return bool(tried) and all(promise.held for promise in tried)

    def described(self) -> dict[str, Any]:
        """Return the result as JSON data."""
        return {
            "held": self.held,
            "seed": self.seed,
            "seconds": round(self.took_s, 2),
            "promises": [
                {"promise": item.text, "tried": item.was_tested, "held": item.held, "measured": item.measured,
                 "faults": item.faults}
                for item in self.promises
            ],
        }  # fmt: skip


def run(options: DemoOptions, stream: TextIO) -> DemoOutcome:
    """Run the demo and narrate it on `stream`.

    Raises Ended after a signal, Invalid for an unknown act, NodectlError, and OSError if `stream` was closed.
    """
    for name in options.acts:
        if name not in {act.key for act in ACTS}:
            raise Invalid(f"there is no act {name!r}; there are: {', '.join(act.key for act in ACTS)}")
    return asyncio.run(_DemoRun(options, stream).run_all())


class _DemoRun:
    def __init__(self, options: DemoOptions, stream: TextIO) -> None:
        self._options = options
        self._narrator = Narrator(stream)
        self._seed = secrets.randbelow(10_000) if options.seed is None else options.seed
        self._begun = time.monotonic()
        self._signals = Signals()
        self._keep = options.stay
        self._kept_for_its_logs = False

    async def run_all(self) -> DemoOutcome:
        with self._signals.handle_signals():
            try:
                return await self._in_directory()
            except asyncio.CancelledError:
                if self._signals.first is None:
                    raise
                raise Ended(self._signals.first) from None

    async def _in_directory(self) -> DemoOutcome:
        given = self._options.directory
        if given is not None and given.exists() and any(given.iterdir()):
            raise Conflict(
                f"{given} is not empty, and the demo removes its directory at the end: give an empty directory, or none"
            )
        if given is None:
            await asyncio.to_thread(_remove_orphaned_directories)
        existed = given is not None and given.exists()
        directory = Path(tempfile.mkdtemp(prefix=_PREFIX)) if given is None else given.absolute()
        directory.mkdir(parents=True, exist_ok=True)
        cluster = DevCluster(
            directory, tls=not self._options.insecure, die_with_parent=not self._options.stay,
            report=self._narrator.line,
        )  # fmt: skip
        try:
            with locked(directory), _logging_to(directory / "log" / "demo.log"):
                (directory / _UNFINISHED).touch()
                outcome = await self._run_on(cluster)
                self._print_ending(cluster, outcome)
                return outcome
        except BaseException as error:
            self._keep = False
            if isinstance(error, NodectlError):
                self._keep_logs(directory)
            raise
        finally:
            self._signals.begin_closing(self._narrator)
            if not self._keep:
                await cluster.destroy()
            if self._keep or self._kept_for_its_logs:
                (directory / _UNFINISHED).unlink(missing_ok=True)
            else:
                await asyncio.to_thread(_remove, directory, keep_itself=existed)

    def _keep_logs(self, directory: Path) -> None:
        """Keep the directory after a failure, and print where the logs are."""
        self._kept_for_its_logs = True
        with contextlib.suppress(OSError):
            self._narrator.line(f"the logs of all processes are in {directory / 'log'}; remove {directory} afterwards")

    # --- the story --------------------------------------------------------------------------------------------------

    async def _run_on(self, cluster: DevCluster) -> DemoOutcome:
        narrator = self._narrator
        narrator.title(f"nodectl demo: a whole cluster on this PC, under load and faults (seed {self._seed})")
        narrator.line(f"the cluster's files are in {cluster.directory}")
        await cluster.up()
        async with (
            cluster.client(actor="demo", command_timeout_s=20.0) as client,
            Etcd(cluster.etcd_settings()) as etcd,
        ):
            faults = random.Random(self._seed)  # noqa: S311 - the same seed must choose the same faults
            stage = Stage(cluster, client, etcd, narrator, faults, Ledger(f"demo-{secrets.token_hex(4)}"))
            await stage.look_up_nodes()
            await self._play_acts(stage)
            await _judge_commands(stage)
            outcome = DemoOutcome(self._seed, list(stage.promises.values()), time.monotonic() - self._begun)
            if self._options.stay:
                await _delete_load_scenes(stage)
        narrator.table(outcome.promises)
        return outcome

    async def _play_acts(self, stage: Stage) -> None:
        """Run the chosen acts one after another; stop at one that cannot be completed."""
        chosen = [act for act in ACTS if act.key in self._options.acts]
        for number, act in enumerate(chosen, start=1):
            stage.narrator.act(number, act.title)
            try:
                await act.play(stage)
            except NodectlError as error:
                stage.say(f"this act could not be completed: {error}")
                stage.promises[act.promise].judge("act not completed", [str(error)])
                return

    def _print_ending(self, cluster: DevCluster, outcome: DemoOutcome) -> None:
        narrator = self._narrator
        narrator.verbatim()
        if outcome.held:
            narrator.title(f"Every promise held, in {outcome.took_s:.0f} s.")
        else:
            narrator.verbatim("A promise was broken.", "bold red")
        if self._options.stay:
            for line in _next_steps(cluster):
                narrator.verbatim(line)
        elif outcome.held:
            narrator.line("to keep the cluster running and explore it: nodectl demo --stay")
        else:
            self._keep_logs(cluster.directory)
            narrator.line(f"to repeat this run: nodectl demo --seed {outcome.seed}")


async def _judge_commands(stage: Stage) -> None:
    """Judge all commands of the run against the journal in etcd and the leader's state."""
    ledger, promises = stage.ledger, stage.promises
    if not ledger.sent:
        return
    expected = {command.path for command in ledger.acknowledged}
    possible = {*(command.path for command in ledger.sent), "scenes/rainbow", "scenes/sunrise"}
    lines = await stage.journal()  # from etcd, so that it can be judged without a master
    try:
        scenes, terms, unread = await stage.scenes(), await stage.client.terms(), []
    except NodectlError as error:
        scenes, terms, unread = set(), [], [f"no master returned the state: {error}"]
    held = f"{len(expected & scenes)} of them in the state" if not unread else "the state is not known"
    promises["lost"].judge(
        f"{len(ledger.acknowledged)} acknowledged, {held}",
        unread,
        find_lost(ledger.indexes, lines),
        [] if unread else find_without_effect(expected, scenes),
    )
    ids = {line.id for line in lines}
    promises["twice"].judge(
        f"{len(ids)} commands, {len(lines) - len(ids)} of them twice",
        find_duplicates(lines),
        find_unknown_effects(possible, scenes),
    )
    if unread:
        return
    unexplained = [f"term {term.get('revision')} has no reason" for term in terms if not term.get("why")]
    anonymous = [f"command {line.id} has no actor" for line in lines if not line.actor]
    missing = stage.leaders_lost + 1 - len(terms)
    promises["history"].judge(
        f"{len(terms) - len(unexplained)} of {len(terms)} terms with their reasons, "
        f"{len(lines) - len(anonymous)} of {len(lines)} commands with their actors",
        unexplained,
        [f"{missing} terms are missing"] if missing > 0 else [],
        anonymous,
        find_journal_faults(lines),
    )


async def _delete_load_scenes(stage: Stage) -> None:
    """Delete the scenes that the load has saved, for a user who explores the cluster."""
    names = [command.scene for command in stage.ledger.sent]
    await asyncio.gather(*(stage.client.scene_delete(name) for name in names), return_exceptions=True)


def _next_steps(cluster: DevCluster) -> list[str]:
    connect = f"nodectl --config {cluster.paths.client_config}"
    here = f"--dir {cluster.directory}"
    return [
        "The cluster stays up. Try:",
        f"  {connect} status",
        f"  {connect} history",
        f"  {connect} scene apply rainbow --wait",
        f"  nodectl dev status {here}",
        f"  nodectl dev kill m1 {here}        # and n5, e2...; `dev start` brings it back",
        "To stop it:",
        f"  nodectl dev down {here}",
    ]


@contextlib.contextmanager
def _logging_to(path: Path) -> Iterator[None]:
    """Write the log of this process's client to the file `path`, not into the demo's output."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(path, encoding="utf-8")
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    root = logging.getLogger()
    level = root.level
    root.addHandler(handler)
    root.setLevel(logging.INFO)
    try:
        yield
    finally:
        root.removeHandler(handler)
        root.setLevel(level)
        handler.close()


def _remove(directory: Path, *, keep_itself: bool = False) -> None:
    """Remove a directory; retry for 5 s, because a process that was just killed may hold a file. Blocks."""
    deadline = time.monotonic() + _REMOVE_S
    while directory.exists() and time.monotonic() < deadline:
        shutil.rmtree(directory, ignore_errors=True)
        time.sleep(0.02)
    if keep_itself:
        directory.mkdir(exist_ok=True)


def _remove_orphaned_directories() -> None:
    """Remove the directories of demos that were killed (SIGKILL); their processes died with them. Blocks."""
    for path in Path(tempfile.gettempdir()).glob(f"{_PREFIX}*"):
        with contextlib.suppress(Unavailable, OSError):  # a running demo holds its lock; skip other users' directories
            if (path / _UNFINISHED).exists():
                with locked(path, wait_s=0):
                    _remove(path)
