"""The text of a systemd unit for a service definition. Pure.

Units use only what the systemd of Debian 12 (252) has, because an older systemd ignores what it does not know. Settings
that newer ones have are added for them alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import PurePath, PurePosixPath
from types import MappingProxyType

from nodestore.errors import Invalid
from nodestore.services.manager import Rights, ServiceDefinition

OLDEST_SYSTEMD = 252
_GROWING_DELAY_SINCE = 254
_RESTART_STEPS, _RESTART_MAX_S = 5, 30.0
STATE_ROOT = PurePosixPath("/var/lib")
_UNSAFE = frozenset("\n\r\0")

_KERNEL = (
    "ProtectClock=yes", "ProtectHostname=yes", "ProtectKernelLogs=yes", "ProtectKernelModules=yes",
    "ProtectKernelTunables=yes",
)  # fmt: skip
_CONFINED = (
    "NoNewPrivileges=yes", "PrivateDevices=yes", "PrivateTmp=yes", "ProtectHome=yes", "ProtectSystem=strict",
    "ProtectControlGroups=yes", *_KERNEL, "ProtectProc=invisible",
    # netlink: the addresses of this PC
    "RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK", "RestrictNamespaces=yes", "RestrictRealtime=yes",
    "RestrictSUIDSGID=yes", "LockPersonality=yes", "SystemCallArchitectures=native", "SystemCallErrorNumber=EPERM",
    "UMask=0077",
)  # fmt: skip
_RIGHTS: Mapping[Rights, Sequence[str]] = MappingProxyType(
    {
        "least": (
            "# Its own directories and the network. Its memory may hold passwords and keys: no core dumps.",
            *_CONFINED, "CapabilityBoundingSet=", "PrivateUsers=yes", "RemoveIPC=yes",
            "SystemCallFilter=@system-service", "SystemCallFilter=~@privileged", "LimitCORE=0",
        ),
        "programs": (
            "# The programs that it runs have the same rights, so only what changes the kernel is taken from them.",
            "# They may need all else: devices, windows, files of other directories, sudo. If you know them, restrict",
            "# more in a drop-in: systemctl edit nodectl-noded.",
            "ProtectControlGroups=yes", "ProtectSystem=yes",
            "CapabilityBoundingSet=~CAP_SYS_MODULE CAP_SYS_RAWIO CAP_SYS_PTRACE CAP_BPF CAP_PERFMON CAP_MAC_ADMIN "
            "CAP_MAC_OVERRIDE CAP_SYSLOG CAP_SYS_PACCT CAP_WAKE_ALARM CAP_BLOCK_SUSPEND CAP_LINUX_IMMUTABLE "
            "CAP_AUDIT_CONTROL CAP_AUDIT_READ CAP_MKNOD CAP_LEASE CAP_SYS_TIME CAP_SYS_TTY_CONFIG",
        ),
        "host": (
            "# root, because it writes units, keys and users. What it need not do is taken from it.",
            *_CONFINED, "ReadWritePaths=/etc -/opt /var/lib",
            "CapabilityBoundingSet=CAP_CHOWN CAP_DAC_OVERRIDE CAP_FOWNER",
            "SystemCallFilter=@system-service", "SystemCallFilter=~@clock @debug @module @mount @raw-io @reboot @swap",
            "LimitCORE=0",
        ),
    }
)  # fmt: skip


def unit_text(definition: ServiceDefinition, *, header: str = "", systemd_version: int = OLDEST_SYSTEMD) -> str:
    """The unit file of the service. header: text for a comment at its head. Raises Invalid if a text has line breaks.

    systemd_version: of the PC on which it is installed.
    """
    comment = [f"# {line}".rstrip() for line in header.splitlines()]
    lines = [*comment, *_unit(definition), "", *_service(definition, systemd_version), "", *_install()]
    if any(_UNSAFE & set(line) for line in lines):
        raise Invalid(f"the definition of {definition.name} contains a line break")
    return "\n".join(lines) + "\n"


def _unit(definition: ServiceDefinition) -> Iterator[str]:
    yield "[Unit]"
    yield f"Description={_escaped(definition.description)}"
    yield "# It waits neither for an address nor for a quorum: on a PC that boots alone they might never come."
    yield f"After={' '.join(['network.target', *(f'{name}.service' for name in definition.stops_before)])}"
    yield "StartLimitIntervalSec=0"


def _service(definition: ServiceDefinition, systemd_version: int) -> Iterator[str]:
    yield "[Service]"
    yield (
        "# Ready means that it does its job, not that others do theirs."
        if definition.notify
        else ("# Started once it runs. What is ordered after it does not wait until it is ready.")
    )
    yield f"Type={'notify' if definition.notify else 'exec'}"
    if definition.watchdog_s is not None:
        yield f"WatchdogSec={definition.watchdog_s:g}"
    if definition.user is not None:
        yield f"User={definition.user}"
    yield from _directories(definition)
    yield from (f"Environment={_quoted(f'{name}={value}')}" for name, value in definition.env.items())
    if definition.env_file is not None:
        yield f"EnvironmentFile={_path(definition.env_file)}"
    yield f"ExecStart={' '.join(_quoted(part, dollar='$$') for part in definition.argv)}"
    if definition.reloads:
        yield "# Reads certificates, passwords and the log level again."
        yield "ExecReload=/bin/kill -HUP $MAINPID"
    yield f"SyslogIdentifier={definition.name}"
    yield ""
    yield from _ends(definition, systemd_version)
    yield ""
    yield from _resources(definition)
    yield ""
    yield from _RIGHTS[definition.rights]


def _directories(definition: ServiceDefinition) -> Iterator[str]:
    """Directories in /var/lib are made by systemd, for the service's user; others by the manager of services."""
    if definition.working_directory is not None:
        yield f"WorkingDirectory={_path(definition.working_directory)}"
    for directory in definition.directories:
        path = PurePosixPath(directory.path.as_posix())
        if path.is_relative_to(STATE_ROOT) and directory.writable:
            yield f"StateDirectory={_quoted(str(path.relative_to(STATE_ROOT)))}"
            yield "StateDirectoryMode=0700"
        else:
            yield f"Read{'Write' if directory.writable else 'Only'}Paths={_path(path)}"


def _ends(definition: ServiceDefinition, systemd_version: int) -> Iterator[str]:
    yield "# The signal to stop goes to the program alone. What is left after this time is killed."
    yield "KillMode=mixed"
    yield f"TimeoutStopSec={definition.stop_timeout_s:g}"
    yield "# Always back, whatever happened: one that stays away makes the next failure the last."
    yield "Restart=always"
    yield f"RestartSec={definition.restart_s:g}"
    if systemd_version >= _GROWING_DELAY_SINCE:
        yield f"RestartSteps={_RESTART_STEPS}"
        yield f"RestartMaxDelaySec={_RESTART_MAX_S:g}"


def _resources(definition: ServiceDefinition) -> Iterator[str]:
    limits = definition.limits
    if definition.nice or definition.oom_score_adjust or definition.first_io:
        yield "# The application may load the PC as it likes: a late heartbeat would look like a dead PC."
        yield f"Nice={definition.nice}"
        yield f"OOMScoreAdjust={definition.oom_score_adjust}"
    if definition.first_io:
        yield "IOSchedulingClass=best-effort"
        yield "IOSchedulingPriority=0"
    if limits.memory_bytes is not None:
        yield f"MemoryMax={limits.memory_bytes}"
    if limits.open_files is not None:
        highest = "" if limits.open_files_max is None else f":{limits.open_files_max}"
        yield f"LimitNOFILE={limits.open_files}{highest}"
    if limits.tasks is not None:
        yield f"TasksMax={limits.tasks}"


def _install() -> Iterator[str]:
    yield "[Install]"
    yield "WantedBy=multi-user.target"


def _path(path: PurePath) -> str:
    return _quoted(path.as_posix())


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace("%", "%%")


def _quoted(text: str, *, dollar: str = "$") -> str:
    """`text` as one word of a setting. `dollar`: how a dollar sign is written; ExecStart= replaces variables."""
    escaped = _escaped(text).replace("$", dollar)
    if text and not any(char.isspace() or char in "\"';" for char in text):
        return escaped
    return '"' + escaped.replace('"', '\\"') + '"'
