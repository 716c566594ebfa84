"""`DevCluster`: etcd members, masters and nodes, each a process of its own on this PC's loopback.

`cluster.json` records each started process by pid and creation time, so that nothing is started twice and no foreign
process is killed. The caller of methods that start or stop processes must hold the directory's lock
(`nodectl.dev.lock`).
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import aiohttp
import psutil

from nodectl.client import Client
from nodectl.dev import launch, waiting
from nodectl.dev.places import wall_inventory
from nodectl.dev.ports import describe_listener, free_ports, is_free
from nodectl.dev.readiness import format_names, missing_leader, missing_nodes, silent_masters, unhealthy_members
from nodectl.dev.record import Part, Process, Program, Record, load, save
from nodectl.inventory.file import InventoryFile, load_inventory
from nodestore.cluster.configuration import Configuration
from nodestore.errors import Conflict, Invalid, NodectlError, NotFound
from nodestore.etcd.session import Etcd, EtcdSettings
from nodestore.processes import child_processes
from nodestore.schema.keys import Keys
from nodestore.schema.models import Inventory, decode
from nodestore.support.atomic_files import write_atomic
from nodestore.support.boot import kernel_boot_id
from nodestore.support.jsonio import dumps
from nodestore.support.tls_files import TlsFiles

CLUSTER = "wall"
MEMBERS = 3
_READY_TIMEOUT_S = 60.0
_CONVERGE_TIMEOUT_S = 20.0
_GRACE_S = 10.0
_END_TIMEOUT_S = 10.0
_PORT_USES: Mapping[str, tuple[str, ...]] = {"etcd": ("client", "peer"), "masterd": ("api",), "noded": ()}

ReportLine = Callable[[str], None]


def _ignore_line(line: str) -> None:
    pass


class DevCluster:
    """The cluster that lives in `directory`.

    inventory: applied if the store has no configuration yet (None: the example wall). Otherwise the configuration in
    the store defines the masters and nodes.
    members: number of etcd members of a new cluster (None: 3).
    tls: the connections of a new cluster use TLS, with authorities of its own.
    die_with_parent: the processes die with this process, however it ends; otherwise they outlive it.
    unsafe_no_fsync: etcd of a new cluster does not wait for its disk, so a crash of the PC may lose acknowledged
    commands. For tests only.
    etcd: the path of etcd's program (None: find it, and download it if needed).
    report: receives a line for each step of `up` and `down`.
    """

    def __init__(
        self,
        directory: Path,
        *,
        inventory: Path | None = None,
        members: int | None = None,
        tls: bool = False,
        die_with_parent: bool = False,
        unsafe_no_fsync: bool = False,
        etcd: Path | None = None,
        report: ReportLine = _ignore_line,
    ) -> None:
        self.directory = directory.absolute()
        self.paths = launch.ClusterPaths(self.directory)
        self._inventory, self._members, self._tls = inventory, members, tls
        self._die_with_parent, self._unsafe_no_fsync, self._report = die_with_parent, unsafe_no_fsync, report
        self._children: dict[str, child_processes.Child] = {}
        self._etcd = etcd
        self._record = load(self.directory)

    def reload(self) -> None:
        """Read `cluster.json` again: another process may have started and stopped processes meanwhile."""
        self._record = load(self.directory)

    # --- description ------------------------------------------------------------------------------------------------

    @property
    def record(self) -> Record:
        """The content of `cluster.json`. Raises NotFound if there is no cluster in the directory."""
        if self._record is None:
            raise NotFound(
                f"there is no cluster in {self.directory}: `nodectl dev up --dir {self.directory}` creates one"
            )
        return self._record

    @property
    def processes(self) -> dict[str, Part]:
        """Every process by name, members first."""
        return dict(self.record.parts)

    @property
    def cluster(self) -> str:
        return self.record.cluster

    @property
    def endpoints(self) -> tuple[str, ...]:
        """The client addresses of the etcd members, as host:port."""
        return launch.endpoints(self.record)

    @property
    def master_urls(self) -> dict[str, str]:
        return {name: self.addresses(name)["api"] for name in self.record.parts_of("masterd")}

    def addresses(self, name: str) -> dict[str, str]:
        """Return the URLs that a process serves, by their use (`client`, `peer`, `api`)."""
        return launch.addresses(self._part(name), tls=self.record.tls)

    @property
    def operator_tls(self) -> TlsFiles | None:
        """The TLS files for clients of this cluster; None if it has no TLS."""
        return self.paths.certificates.operator if self.record.tls else None

    def work_dir(self, node: str) -> Path:
        """Return the working directory of a node's noded and of its program."""
        found = self.paths.data(node, self._part(node))
        assert found is not None
        return found

    def client(self, **options: Any) -> Client:
        """Return a client of this cluster that finds the leader through etcd; `options` as for Client."""
        files = self.operator_tls or TlsFiles()
        return Client(
            self.endpoints, cluster=self.cluster, ca=files.ca, cert=files.cert, key=files.key, crl=files.crl, **options
        )

    def etcd_settings(self) -> EtcdSettings:
        """Return the settings of a session with this cluster's etcd."""
        files = self.operator_tls or TlsFiles()
        return EtcdSettings(endpoints=self.endpoints, ca=files.ca, cert=files.cert, key=files.key)

    def http_session(self) -> aiohttp.ClientSession:
        """Return a session for requests to single processes of this cluster. The caller closes it."""
        files = self.operator_tls
        return aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=True if files is None else files.context()))

    def _part(self, name: str) -> Part:
        try:
            return self.record.parts[name]
        except KeyError:
            raise NotFound(f"there is no process {name!r}; there are: {', '.join(self.record.parts)}") from None

    # --- the whole cluster ------------------------------------------------------------------------------------------

    async def up(self) -> None:
        """Start every process that does not run, and wait until the cluster works. An earlier cluster keeps its state.

        Raises NodectlError if a process ends or a port is taken, and TimedOut.
        """
        # Checked first, because an error in it must not leave a cluster half started.
        given = _checked(self._inventory or wall_inventory())
        self._record = self._record or self._new_record()
        self._check_same_topology()
        etcd = await self._etcd_program()
        self._report(f"etcd is {etcd}")
        await self._issue_certificates(self.record.parts)
        async with self.http_session() as session:
            started = time.monotonic()
            members = list(self.record.parts_of("etcd"))
            self._report(f"starting {_counted(self.record, members)}")
            await self._start_all(members)
            await self._wait_until("etcd is healthy", lambda: unhealthy_members(session, self.record), members)
            self._report_started(members, "healthy", started)
            self._update_processes(await self._configuration(given))
            masters, nodes = list(self.record.parts_of("masterd")), list(self.record.parts_of("noded"))
            self._write_client_config()
            self._report(f"starting {_counted(self.record, [*masters, *nodes])}")
            await self._start_all([*masters, *nodes])
            await self._wait_until("every master answers", lambda: silent_masters(session, self.record), masters)
        async with self.client() as client:
            await self._wait_until("a master leads", lambda: missing_leader(client), masters)
            self._report_started(masters, f"{(await client.leader()).id} leads", started)
            await self._wait_until("every node is claimed", lambda: missing_nodes(client, self.record), nodes)
            self._report_started(nodes, "running", started)
            await self._wait_converged(client, started)

    async def down(self, grace_s: float = _GRACE_S) -> None:
        """Stop all processes, nodes and masters before etcd; keep the data. Kill what still runs after `grace_s`."""
        if self._record is None:
            return
        clients = [name for name, part in self.record.parts.items() if part.program != "etcd" and part.running]
        members = [name for name, part in self.record.parts_of("etcd").items() if part.running]
        for names in (clients, members):
            if names:
                self._report(f"stopping {format_names(names)}")
            await asyncio.gather(*(self.stop(name, grace_s) for name in names))

    async def destroy(self) -> None:
        """Kill all processes at once, for a cluster whose data is not needed any more."""
        if self._record is None:
            return
        running = [name for name, part in self.record.parts.items() if part.running]
        await asyncio.gather(*(self.kill(name) for name in running))

    # --- one process ------------------------------------------------------------------------------------------------

    async def start(self, name: str) -> None:
        """Start a process unless it runs; return before it is ready. Raises Conflict if one of its ports is taken."""
        await self._etcd_program()
        await self._start_all([name])

    async def stop(self, name: str, grace_s: float = _GRACE_S) -> None:
        """Resume and terminate a process; kill it and its children if they still run after `grace_s` seconds."""
        process = self._part(name).process
        if process is None or not process.alive:
            return
        with contextlib.suppress(NodectlError):  # it may end by itself at this moment
            child_processes.resume(process.identity)
        child_processes.terminate(process.identity)
        with contextlib.suppress(TimeoutError):
            await _wait_ended(process, grace_s)
        await self.kill(name)

    async def kill(self, name: str) -> None:
        """Kill a process (SIGKILL) and its children; no effect if it does not run."""
        part = self._part(name)
        process = part.process
        if process is None or process.boot != kernel_boot_id():
            return
        # etcd and masterd have no children: they are killed at once, before the search for children, which takes time.
        if part.program != "noded" and process.alive:
            with contextlib.suppress(psutil.Error):
                psutil.Process(process.pid).kill()
        await asyncio.to_thread(child_processes.kill_tree, process.identity)
        try:
            await _wait_ended(process, _END_TIMEOUT_S)
        except TimeoutError:
            raise NodectlError(
                f"{name} (pid {process.pid}) was killed and does not end: it hangs in the kernel"
            ) from None
        child = self._children.pop(name, None)
        if child is not None:
            await child.wait()

    def suspend(self, name: str) -> None:
        """Suspend a process (SIGSTOP): its sockets stay open, and it does not answer."""
        child_processes.suspend(self._running(name).identity)

    def resume(self, name: str) -> None:
        """Resume a suspended process."""
        child_processes.resume(self._running(name).identity)

    def is_suspended(self, name: str) -> bool:
        process = self._part(name).process
        if process is None or not process.alive:
            return False
        with contextlib.suppress(psutil.Error):
            return psutil.Process(process.pid).status() == psutil.STATUS_STOPPED
        return False

    def _running(self, name: str) -> Process:
        process = self._part(name).process
        if process is None or not process.alive:
            raise Conflict(f"{name} does not run: `nodectl dev start {name}`")
        return process

    # --- the parts --------------------------------------------------------------------------------------------------

    def _new_record(self) -> Record:
        members = MEMBERS if self._members is None else self._members
        self.directory.mkdir(parents=True, exist_ok=True)
        self._record = Record(
            cluster=CLUSTER, token=f"nodectl-dev-{secrets.token_hex(4)}", unsafe_no_fsync=self._unsafe_no_fsync,
            tls=self._tls,
        )  # fmt: skip
        self._add_parts("etcd", [f"e{number}" for number in range(1, members + 1)])
        return self._record

    def _check_same_topology(self) -> None:
        found = len(self.record.parts_of("etcd"))
        if self._members not in (None, found):
            raise Conflict(
                f"the cluster in {self.directory} has {found} etcd members, not {self._members}: "
                "leave --members out, or take another --dir"
            )

    def _add_parts(self, program: Program, names: Iterable[str]) -> None:
        """Add a part, with ports of its own, for each name that has no part yet."""
        for name in names:
            known = self.record.parts.get(name)
            if known is not None and known.program != program:
                raise Invalid(f"two processes would be named {name}: a {known.program} and a {program}")
            if known is None:
                uses = _PORT_USES[program]
                ports = free_ports(len(uses), self.record.ports)
                self.record.parts[name] = Part(program=program, ports=dict(zip(uses, ports, strict=True)))
        save(self.directory, self.record)

    def _update_processes(self, inventory: Inventory) -> None:
        self._add_parts("masterd", inventory.masters)
        self._add_parts("noded", inventory.nodes)
        wanted = {*self.record.parts_of("etcd"), *inventory.masters, *inventory.nodes}
        for name in [name for name in self.record.parts if name not in wanted]:
            if not self.record.parts[name].running:  # keep one that runs: `down` must find it
                del self.record.parts[name]
        save(self.directory, self.record)

    def _write_client_config(self) -> None:
        """Write the file for `nodectl --config`. Its paths are relative to it. JSON is YAML too."""
        files = self.operator_tls or TlsFiles()
        entry: dict[str, str] = {"endpoints": ",".join(self.endpoints), "cluster": self.cluster}
        for name in ("ca", "cert", "key", "crl"):
            path: Path | None = getattr(files, name)
            if path is not None:
                entry[name] = path.relative_to(self.directory).as_posix()
        write_atomic(self.paths.client_config, dumps({"clusters": {self.cluster: entry}}) + b"\n")

    async def _configuration(self, given: InventoryFile) -> Inventory:
        """Return the configuration in the store; if there is none, apply `given` and return that."""
        async with Etcd(self.etcd_settings()) as etcd:
            keys = Keys(self.cluster)
            configuration = Configuration(etcd, keys)
            found = await configuration.current()
            if found is not None:
                if self._inventory is not None:
                    self._report(
                        f"the cluster keeps its configuration (version {found.version}); "
                        f"to change it: nodectl config apply {self._inventory}"
                    )
                return decode(Inventory, dumps(found.inventory), keys.config_current)
            await configuration.apply(given.data, source=given.source, expect_version=0, actor="nodectl dev")
            self._report(f"applied {self._inventory or wall_inventory()}")
            return given.inventory

    # --- starting ---------------------------------------------------------------------------------------------------

    async def _etcd_program(self) -> Path:
        """Return the path of etcd's program; find it, and download it if needed, at the first call."""
        if self._etcd is None:
            from nodectl.etcd_binary.find import find_etcd

            self._etcd = (await asyncio.to_thread(find_etcd, self._report_etcd_progress)).server
        return self._etcd

    def _report_etcd_progress(self, line: str) -> None:
        if "skipped" not in line:  # skipped sources matter only if no source has an etcd; the error then lists them
            self._report(line)

    async def _start_all(self, names: Iterable[str]) -> None:
        wanted = list(names)
        for name in wanted:
            if self.is_suspended(name):
                self._report(f"{name} was suspended: resuming it")
                self.resume(name)
        missing = [name for name in wanted if not self._part(name).running]
        for name in missing:
            self._check_ports(name)
        await self._issue_certificates(missing)
        launches = asyncio.gather(*(self._launch(name) for name in missing), return_exceptions=True)
        try:
            await asyncio.shield(launches)
        finally:  # also after a cancellation: `down` cannot find a started process that is not recorded
            outcomes = await launches
            save(self.directory, self.record)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome

    async def _issue_certificates(self, names: Iterable[str]) -> None:
        """Give these processes certificates. Those that run read renewed ones by themselves."""
        if self.record.tls:
            await asyncio.to_thread(self.paths.certificates.issue, self.record, list(names))

    def _check_ports(self, name: str) -> None:
        for use, port in self._part(name).ports.items():
            if not is_free(port):
                raise Conflict(
                    f"port {port}, the {use} port of {name}, is taken by {describe_listener(port)}: end that program, "
                    "or make a new cluster with another --dir"
                )

    async def _launch(self, name: str) -> None:
        part, how = self._part(name), launch.launch_command(self.record, name, self.paths, await self._etcd_program())
        environment = {**launch.inherited_environment(), **how.env}
        log = self.paths.log(name)
        if self._die_with_parent:
            child = await child_processes.spawn(
                how.argv, cwd=how.cwd, env=environment, stdout=log, die_with_parent=True
            )
            self._children[name] = child
            identity = child.identity
        else:
            start = partial(child_processes.spawn_detached, how.argv, cwd=how.cwd, env=environment, log=log)
            try:
                identity = await asyncio.to_thread(start)
            except child_processes.EndedAtOnce:
                raise waiting.ended_error(name, part, log) from None
        part.process = Process(
            pid=identity.pid, created=identity.created, boot=kernel_boot_id(), argv=how.argv, env=how.env
        )

    # --- readiness --------------------------------------------------------------------------------------------------

    async def _wait_until(
        self, what: str, check: waiting.Check, names: list[str], timeout_s: float = _READY_TIMEOUT_S
    ) -> None:
        await waiting.wait_for_processes(what, check, names, self.record, self.paths.log, timeout_s)

    def _report_started(self, names: list[str], how: str, started: float) -> None:
        self._report(f"{format_names(names)}: {how} after {time.monotonic() - started:.1f} s")

    async def _wait_converged(self, client: Client, started: float) -> None:
        """Wait until the nodes have converged. One that has not is only reported: its configuration is the cause."""
        troubled: dict[str, str] = {}

        async def check() -> str | None:
            troubled.clear()
            views = await client.nodes()
            troubled.update({view["name"]: view["problem"] or "" for view in views if not view["converged"]})
            return ", ".join(troubled) or None

        try:
            await self._wait_until("the nodes are in their desired state", check, [], _CONVERGE_TIMEOUT_S)
        except NodectlError:
            for name, problem in troubled.items():
                self._report(f"{name} is not in its desired state: {problem}")
        else:
            self._report(f"every node is in its desired state after {time.monotonic() - started:.1f} s")


def _checked(path: Path) -> InventoryFile:
    loaded = load_inventory(path)
    if not loaded.inventory.masters:
        raise Invalid(f"{path} names no masters: add at least one under `masters`")
    return loaded


async def _wait_ended(process: Process, timeout_s: float) -> None:
    async with asyncio.timeout(timeout_s):
        while process.alive:
            await asyncio.sleep(0.01)


def _counted(record: Record, names: Iterable[str]) -> str:
    """Count the processes that do not run yet by program: `3 masterd, 9 noded`."""
    programs = [record.parts[name].program for name in names if not record.parts[name].running]
    return ", ".join(f"{programs.count(program)} {program}" for program in dict.fromkeys(programs)) or "nothing"
