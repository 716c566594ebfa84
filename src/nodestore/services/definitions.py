"""The four services of a PC, as they are on Linux with nodectl in /opt/nodectl. Pure.

What installs them elsewhere, or with options on the command line, replaces fields of these definitions. Everything else
that describes the services is made from this table: the files in etc/ and etcd/ and what `nodectl host init` installs.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from types import MappingProxyType

from nodestore.services.manager import ServiceDefinition, ServiceDirectory, ServiceLimits

_PROGRAMS = PurePosixPath("/opt/nodectl/bin")
_CONFIGURATION = PurePosixPath("/etc/nodectl")
_STATE = PurePosixPath("/var/lib/nodectl")
_GIB = 1 << 30

ETCD = ServiceDefinition(
    name="nodectl-etcd",
    description="etcd member of nodectl",
    argv=("/usr/local/bin/etcd", "--config-file=/etc/etcd/etcd.yaml"),
    env={"GOMEMLIMIT": "200MiB", "GOGC": "50"},
    user="etcd",
    directories=(ServiceDirectory(PurePosixPath("/var/lib/etcd")),),
    # etcd could notify, but it is ready only once a majority of the members runs. What is ordered after it, so that it
    # stops before it, would wait for that: for ever, if this PC alone was switched on.
    notify=False,
    # A member uses 330 MB at most: in a long burst of writes, or while it is defragmented (docs/overload.md).
    limits=ServiceLimits(memory_bytes=_GIB, open_files=65_536, tasks=512),
    nice=-10,
    oom_score_adjust=-900,
    first_io=True,
)

MASTERD = ServiceDefinition(
    name="nodectl-masterd",
    description="nodectl masterd",
    argv=(str(_PROGRAMS / "masterd"),),
    env={"NODECTL_STATE_DIR": str(_STATE / "masterd")},
    env_file=_CONFIGURATION / "masterd.env",
    user="nodectl-masterd",
    directories=(ServiceDirectory(_STATE / "masterd"),),
    notify=True,
    watchdog_s=20.0,
    # It uses 120 MB with a small state; the application's part is not known here.
    limits=ServiceLimits(memory_bytes=_GIB, open_files=65_536, tasks=512),
    reloads=True,
    stop_timeout_s=20.0,
    stops_before=(ETCD.name,),
    nice=-5,
    oom_score_adjust=-500,
)

NODED = ServiceDefinition(
    name="nodectl-noded",
    description="nodectl noded",
    argv=(str(_PROGRAMS / "noded"),),
    env_file=_CONFIGURATION / "noded.env",
    user="nodectl-noded",
    directories=(ServiceDirectory(_STATE / "noded"),),
    notify=True,
    # Longer than a driver may block the event loop by mistake: the application is restarted with noded.
    watchdog_s=60.0,
    limits=ServiceLimits(open_files=4_096, open_files_max=524_288),
    rights="programs",
    reloads=True,
    restart_s=2.0,
    stop_timeout_s=20.0,
)

HOSTD = ServiceDefinition(
    name="nodectl-hostd",
    description="nodectl hostd",
    argv=(str(_PROGRAMS / "hostd"),),
    env_file=_CONFIGURATION / "hostd.env",
    directories=(ServiceDirectory(_STATE / "hostd"),),
    notify=True,
    watchdog_s=60.0,
    limits=ServiceLimits(memory_bytes=_GIB // 2, open_files=4_096, tasks=512),
    rights="host",
    reloads=True,
    restart_s=2.0,
)

SERVICES: Mapping[str, ServiceDefinition] = MappingProxyType(
    {definition.name: definition for definition in (ETCD, MASTERD, NODED, HOSTD)}
)
"""In the order in which they start. They stop in the reverse order."""
