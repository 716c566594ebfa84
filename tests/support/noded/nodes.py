"""Real noded processes for tests that have real masters as well."""

from __future__ import annotations

import sys
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from pathlib import Path

from nodestore.errors import Garbage
from nodestore.etcd.session import Etcd
from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Status, decode
from tests.support.waiting import eventually

_CONVERGES_S = 60.0


class Noded:
    """One noded process, its log and its status."""

    def __init__(self, node: str, child: child_processes.Child, log: Path, work: Path) -> None:
        self.node, self.child, self.work, self._log = node, child, work, log

    @property
    def log(self) -> str:
        return self._log.read_text("utf-8", "replace")

    async def wait_for_log(self, words: str) -> None:
        """Wait until its log contains `words`."""
        try:
            await eventually(lambda: words in self.log, timeout_s=_CONVERGES_S)
        except AssertionError:
            raise AssertionError(f"noded {self.node} does not say {words!r}:\n{self.log}") from None

    async def ready(self, etcd: Etcd, keys: Keys, generation: int) -> Status:
        """Wait until its status is `ready` at this generation or a later one; return the status."""
        found: list[Status] = []

        async def look() -> bool:
            kv = await etcd.get(keys.status_of(self.node))
            with suppress(Garbage):  # some tests write a malformed status
                found[:] = [] if kv is None else [decode(Status, kv.value, kv.key)]
            return bool(found) and found[0].observed_generation >= generation and found[0].phase == "ready"

        try:
            await eventually(look, timeout_s=_CONVERGES_S)
        except AssertionError:
            raise AssertionError(f"{self.node} does not reach {generation}: {found}\n{self.log}") from None
        return found[0]


@asynccontextmanager
async def run_noded(
    endpoints: tuple[str, ...],
    keys: Keys,
    node: str,
    *options: str,
    work: Path | None = None,
    host_id: str = "host-a",
    env: Mapping[str, str] | None = None,
    program: Sequence[str] = (sys.executable, "-m", "noded"),
) -> AsyncIterator[Noded]:
    """Run a noded that drives `node`; stop it at the end of the block."""
    with tempfile.TemporaryDirectory(prefix="nodectl-noded-", ignore_cleanup_errors=True) as directory:
        place, log = work or Path(directory) / "work", Path(directory) / "log"
        argv = [*program, "--node", node, "--cluster", keys.cluster, "--host-id", host_id]
        argv += ["--endpoints", ",".join(endpoints), "--work-dir", str(place), "--tick", "0.3", *options]
        noded = Noded(node, await child_processes.spawn(argv, stdout=log, env=env, die_with_parent=True), log, place)
        try:
            yield noded
        finally:
            await noded.child.stop(5)
