"""One pass of hostd: plans from what is known, makes it so, and writes the report.

Who can die between two lines: a new member begins by moving former data aside, then the mark is written, then etcd
starts. Without the mark the next pass begins again; with the mark and without data, etcd starts as the member that has
not started yet.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import time
from pathlib import Path

from hostd.agent.memory import HostMemory
from hostd.agent.plan import FIRST_MEMBER, Facts, HostPlan, ListedMember, MemberMark, make_plan
from hostd.agent.services import Services
from hostd.pc.client_config import is_operator_here, write_client_config
from hostd.pc.definitions import ETCD, MASTERD, NODED, Definitions
from hostd.pc.host_file import HostFile, write_json
from hostd.pc.layout import Layout
from nodestore import __version__
from nodestore.errors import Invalid, NodectlError
from nodestore.schema.host_models import HostActual
from nodestore.support.atomic_files import write_atomic
from nodestore.support.tls_files import certificate_end_of

log = logging.getLogger(__name__)

_ASIDE_MAX = 3
STOP_ORDER = (NODED, MASTERD, ETCD)


class Reconciler:
    """Brings this PC into the state that it must be in. `known`: state and members, which the link with etcd sets."""

    def __init__(self, layout: Layout, host: HostFile, services: Services, memory: HostMemory) -> None:
        self._layout, self._host, self._services, self._memory = layout, host, services, memory
        self._definitions = Definitions(layout, host)
        self._known = memory.known()
        self._problems: dict[str, str] = {}
        self.plan: HostPlan | None = None
        self.actual: HostActual | None = None

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The members of etcd that are known to vote."""
        return self._make_plan().endpoints

    def learn(self, state: str | None, members: tuple[ListedMember, ...]) -> None:
        """Take what etcd says now. It is remembered before it is used."""
        if (state, members) != self._known:
            self._memory.save_known(state, members)
            self._known = state, members

    def prepare(self) -> None:
        """Write the file of endpoints, which sessions follow, before the first pass."""
        self._write_endpoints(self._make_plan())

    async def run_once(self) -> HostActual:
        """One pass. What fails is reported, and tried again in the next pass."""
        self.plan = plan = self._make_plan()
        self._problems.clear()
        await self._guarded(ETCD, self._apply_etcd(plan))
        self._write_endpoints(plan)
        for name, wanted, definition in (
            (MASTERD, plan.masterd, self._definitions.masterd()),
            (NODED, plan.noded, self._definitions.noded()),
        ):
            await self._guarded(name, self._services.ensure(definition) if wanted else self._services.stop(name))
        self.actual = self._describe(plan)
        write_json(self._layout.report, self.actual)
        return self.actual

    def _make_plan(self) -> HostPlan:
        state, members = self._known
        facts = Facts(
            host=self._host.host,
            kind=self._host.kind,
            peer_url=self._host.peer_url,
            state=state,  # type: ignore[arg-type]
            members=members,
            mark=self._memory.mark(),
            has_data=(self._layout.etcd_data / "member").is_dir(),
        )
        return make_plan(facts, self._host.endpoints)

    async def _guarded(self, name: str, work: object) -> None:
        try:
            await work  # type: ignore[misc]
        except (NodectlError, OSError) as error:
            log.warning("%s: %s", name, error)
            self._problems[name] = str(error)

    def _write_endpoints(self, plan: HostPlan) -> None:
        """Write the files by which the programs of this PC, and nodectl, find the members of etcd."""
        text = ",".join(plan.endpoints) + "\n"
        path = self._layout.endpoints
        try:
            if not path.exists() or path.read_text("utf-8") != text:
                write_atomic(path, text.encode(), 0o644)
            if is_operator_here(self._layout):
                write_client_config(self._layout, self._host, plan.endpoints)
        except (OSError, NodectlError) as error:
            self._problems["endpoints"] = f"the members of etcd cannot be written below {self._layout.etc}: {error}"

    async def _apply_etcd(self, plan: HostPlan) -> None:
        if plan.etcd in ("stop", "lost"):
            await self._services.stop(ETCD)
            return
        mark = self._memory.mark()
        if plan.etcd == "begin":
            await self._services.stop(ETCD)
            set_aside(self._layout.etcd_data)
            mark = MemberMark(plan.member, plan.initial_cluster, existing=True)
            self._memory.save_mark(mark)
        elif mark is not None and mark.id == FIRST_MEMBER != plan.member:
            mark = MemberMark(plan.member, mark.initial_cluster, mark.existing)
            self._memory.save_mark(mark)
        assert mark is not None
        await self._services.ensure(self._definitions.etcd(mark.initial_cluster, existing=mark.existing))

    def _describe(self, plan: HostPlan) -> HostActual:
        problems = [f"{name}: {text}" for name, text in self._problems.items()]
        if plan.reason:
            problems.append(f"etcd: {plan.reason}")
        return HostActual(
            version=__version__,
            time=time.time(),
            services=dict(self._services.reports),
            member=f"{plan.member:x}" if plan.member and plan.etcd in ("run", "begin") else "",
            lost_member=f"{plan.member:x}" if plan.etcd == "lost" else "",
            problems=tuple(problems),
            certificate_ends=self._certificate_ends(),
        )

    def _certificate_ends(self) -> float | None:
        ends = []
        for path in (self._layout.etc / "tls").glob(f"*/{self._host.host}.crt"):
            with contextlib.suppress(Invalid, NodectlError):
                ends.append(certificate_end_of(path))
        return min(ends, default=None)


def set_aside(data: Path) -> None:
    """Move the data of a former member to etcd.aside-<n>, and keep the newest three of these. Raises OSError."""
    if not data.is_dir() or not os.listdir(data):
        return
    former = sorted(data.parent.glob(f"{data.name}.aside-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    number = int(former[-1].name.rpartition("-")[2]) + 1 if former else 1
    data.rename(data.with_name(f"{data.name}.aside-{number}"))
    for path in former[: max(0, len(former) + 1 - _ASIDE_MAX)]:
        shutil.rmtree(path, ignore_errors=True)
