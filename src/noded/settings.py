"""noded's settings, read from the command line and from the environment variables NODECTL_<NAME>."""

from __future__ import annotations

import re
import shlex
import sys
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from noded.reconcile.agent import AgentTiming
from nodestore.daemon.log_target import LogFileSettings, add_log_file, log_file_settings
from nodestore.daemon.options import Parser, add_common, etcd_settings, read_log_level, read_option_file
from nodestore.errors import Invalid
from nodestore.etcd.session import EtcdSettings
from nodestore.schema.keys import check_name
from nodestore.support.tls_files import TlsFiles
from nodestore.support.values import duration_between

HOST_ID_CHARS_MAX = 200


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The validated settings of one noded."""

    node: str
    cluster: str
    etcd: EtcdSettings
    work_dir: Path
    host_id: str
    lease_ttl_s: int
    timing: AgentTiming
    log_level: str
    reboot_command: tuple[str, ...] | None = None
    log_level_file: Path | None = None
    log_file: LogFileSettings | None = None
    """Where the log goes; None: to stderr."""
    tls: TlsFiles | None = None
    """The files for connections to masters at https URLs; None: the system's certificate authorities are trusted."""


def parse(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> Settings:
    """Parse `arguments` (default: sys.argv). If one is wrong, print one line and raise SystemExit(2)."""
    parser = Parser("noded", "Keeps one node in the state that the master wants.", environ)
    parser.add_option("node", _node, meta="NAME", text="this node's name in the inventory")
    parser.add_option(
        "work-dir",
        _directory,
        meta="DIR",
        text="directory that only this noded uses; its content may be deleted at any time",
    )
    parser.add_option(
        "host-id",
        _host_id,
        default="",
        meta="ID",
        text="unique id of this machine (default: the system's machine id)",
    )
    parser.add_option(
        "tick",
        duration_between(0.05, 3_600),
        default="5s",
        meta="TIME",
        text="interval of the periodic comparison of desired and actual state (default: %(default)s)",
    )
    parser.add_option(
        "start-wait",
        duration_between(0, 3_600),
        default="5s",
        meta="TIME",
        text="how long noded waits for etcd at its start, before it uses the last applied state (default: %(default)s)",
    )
    parser.add_option(
        "reboot-command",
        _argv,
        default="",
        meta="COMMAND",
        text="command that the action reboot runs to reboot the PC (default: none, and the action fails)",
    )
    add_common(parser)
    add_log_file(parser)
    parser.add_option(
        "crl",
        Path,
        default="",
        meta="FILE",
        text="file of the revocation list of --ca; masters whose certificate it contains are not trusted",
    )
    options = parser.parse_args(arguments)
    try:
        etcd = etcd_settings(options)
        return Settings(
            node=options.node,
            cluster=options.cluster,
            etcd=etcd,
            tls=_tls_files(etcd, options.crl),
            work_dir=options.work_dir,
            host_id=options.host_id or machine_id(),
            lease_ttl_s=options.lease_ttl,
            timing=AgentTiming(tick_s=options.tick, start_wait_s=options.start_wait),
            reboot_command=options.reboot_command,
            log_level=read_log_level(options.log_level_file, options.log_level),
            log_level_file=options.log_level_file,
            log_file=log_file_settings(options),
        )
    except Invalid as error:
        parser.error(error.message)


def _tls_files(etcd: EtcdSettings, crl: Path | None) -> TlsFiles | None:
    """The files for connections to masters, which are those for etcd; None without TLS. Raises Invalid."""
    if crl is not None:
        if etcd.ca is None:
            raise Invalid("--crl needs --ca: without it there is no TLS, and certificates are not used")
        read_option_file("--crl", crl)
    return None if etcd.ca is None else TlsFiles(ca=etcd.ca, cert=etcd.cert, key=etcd.key, crl=crl)


def _node(text: str) -> str:
    return check_name("node", text)


def _directory(text: str) -> Path:
    path = Path(text).absolute()
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path} is not a directory")
    return path


def _argv(text: str, platform: str = sys.platform) -> tuple[str, ...]:
    """Split a command line as a shell does, on Windows as its programs do."""
    parts = split_as_windows(text) if platform == "win32" else shlex.split(text)
    if not parts or not parts[0] or "\x00" in text:
        raise ValueError(f"{text!r} does not name a program")
    return tuple(parts)


def split_as_windows(text: str) -> list[str]:
    """Split a command line as the C runtime of Windows does (CommandLineToArgvW).

    Double quotes quote, also in the middle of an argument. A backslash escapes nothing, except that 2n of them before a
    quote are n, and 2n+1 of them are n and a quote that is text.
    """
    parts: list[str] = []
    part: list[str] | None = None
    quoted = False
    for backslashes, char in _WINDOWS_TOKEN.findall(text):
        if not backslashes + char:  # the end
            continue
        if char in (" ", "\t") and not backslashes and not quoted:
            if part is not None:
                parts.append("".join(part))
            part = None
            continue
        part = [] if part is None else part
        if char == '"':
            part.append("\\" * (len(backslashes) // 2))
            if len(backslashes) % 2:
                part.append('"')
            else:
                quoted = not quoted
        elif char in (" ", "\t") and not quoted:
            parts.append("".join([*part, backslashes]))
            part = None
        else:
            part += [backslashes, char]
    if part is not None:
        parts.append("".join(part))
    return parts


_WINDOWS_TOKEN = re.compile(r"(\\*)([^\\]|$)", re.DOTALL)


def _host_id(text: str) -> str:
    if not text.isprintable() or len(text) > HOST_ID_CHARS_MAX:
        raise ValueError(f"use up to {HOST_ID_CHARS_MAX} printable characters")
    return text


def machine_id() -> str:
    """Return this machine's unique id, which does not depend on its name and survives reboots."""
    machine = _windows_machine_id() if sys.platform == "win32" else _posix_machine_id()
    return machine or f"mac-{uuid.getnode():012x}"


def _posix_machine_id() -> str:
    for path in (Path("/etc/machine-id"), Path("/var/lib/dbus/machine-id")):
        try:
            text = path.read_text("ascii").strip()
        except (OSError, ValueError):
            continue
        if text and text != "uninitialized":
            return text
    return ""


def _windows_machine_id() -> str:
    if sys.platform != "win32":
        return ""
    import winreg

    try:
        with winreg.OpenKey(winreg.HKEY_LOCAL_MACHINE, r"SOFTWARE\Microsoft\Cryptography") as key:
            value, _kind = winreg.QueryValueEx(key, "MachineGuid")
    except OSError:
        return ""
    return str(value)
