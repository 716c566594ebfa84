"""Command-line options that masterd and noded share. Each can also be given in the environment.

The variable of `--lease-ttl`, for example, is NODECTL_LEASE_TTL. The command line takes precedence. A wrong value ends
the program with exit code 2 and one line that names the option.
"""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from nodestore import __version__
from nodestore.errors import Invalid, NodectlError
from nodestore.etcd.endpoints_file import read_endpoints
from nodestore.etcd.session import EtcdSettings
from nodestore.etcd.types import host_port
from nodestore.schema.keys import check_name
from nodestore.support import logs
from nodestore.support.password_file import read_password
from nodestore.support.values import check_credentials, whole_seconds_between

T = TypeVar("T")

_LEVEL_CHARS_MAX = 100
_YES, _NO = ("1", "true", "yes"), ("0", "false", "no", "")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and whose options have defaults from the environment."""

    def __init__(self, program: str, description: str, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(
            prog=program,
            description=description,
            epilog="Each option --some-name can also be given as NODECTL_SOME_NAME in the environment. "
            "A TIME is written as 300ms, 5s, 5m or 1h; a number without a unit is in seconds.",
            allow_abbrev=False,  # an abbreviation may become ambiguous with the next release
        )
        self._environ = os.environ if environ is None else environ
        self.add_argument("--version", action="version", version=f"{program} {__version__}", help="show the version")

    def add_option(
        self, name: str, convert: Callable[[str], T], *, default: T | str | None = None, meta: str, text: str
    ) -> None:
        """Add `--name`. `convert` raises ValueError or a NodectlError whose message explains what is wrong.

        A default that is a str is converted like a given value. Without a default the option is required. With the
        default "" it is optional, and its value is None if it is not given.
        """
        variable = "NODECTL_" + name.replace("-", "_").upper()
        given: Any = self._environ.get(variable) or default
        self.add_argument(
            f"--{name}",
            type=argument_type(convert),
            default=None if given == "" else given,
            required=given is None,
            metavar=meta,
            help=text,
        )

    def add_flag(self, name: str, *, text: str) -> None:
        """Add `--name`, which is off by default. In the environment: 1, true or yes; 0, false, no or empty."""
        variable = "NODECTL_" + name.replace("-", "_").upper()
        given = self._environ.get(variable, "").lower()
        if given not in (*_YES, *_NO):
            self.error(f"{variable}: {given!r} is neither 1 nor 0")
        self.add_argument(f"--{name}", action="store_true", default=given in _YES, help=text)

    def error(self, message: str) -> NoReturn:
        shown = "".join(char if char.isprintable() else ascii(char)[1:-1] for char in message)  # in one line
        sys.stderr.write(f"{self.prog}: {shown} (see {self.prog} --help)\n")
        raise SystemExit(2)


def argument_type(convert: Callable[[str], T]) -> Callable[[str], T]:
    """Wrap `convert` for argparse's `type`, so that argparse shows the message of its ValueError or NodectlError."""

    def checked(text: str) -> T:
        try:
            return convert(text)
        except (ValueError, NodectlError) as error:
            raise argparse.ArgumentTypeError(f"{error}") from None

    return checked


def add_common(parser: Parser) -> None:
    """Add the options of every program that connects to etcd."""
    parser.add_option(
        "cluster", _parse_cluster, meta="NAME", text="name of the cluster; its keys are under /nodectl/NAME/"
    )
    parser.add_option(
        "endpoints",
        endpoints,
        default="127.0.0.1:2379",
        meta="HOST:PORT,...",
        text="members of etcd, the one on this PC first (default: %(default)s)",
    )
    parser.add_option(
        "endpoints-file",
        Path,
        default="",
        meta="FILE",
        text="file of the endpoints, in place of --endpoints; it is read again when it changes",
    )
    parser.add_option("user", str, default="", meta="NAME", text="user name for etcd")
    parser.add_option(
        "password-file",
        Path,
        default="",
        meta="FILE",
        text="file whose first line is the password of --user, or -: stdin",
    )
    parser.add_option(
        "ca", Path, default="", meta="FILE", text="file of the certificate authority of etcd's members; enables TLS"
    )
    parser.add_option("cert", Path, default="", meta="FILE", text="file of the client certificate for etcd")
    parser.add_option("key", Path, default="", meta="FILE", text="file of the private key of --cert")
    parser.add_option(
        "lease-ttl",
        whole_seconds_between(1, 300),
        default="2s",
        meta="TIME",
        text="lease TTL: after this long without a keepalive, etcd deletes this process's keys; whole seconds "
        "(default: %(default)s)",
    )
    parser.add_option(
        "log-level", _parse_level, default="info", meta="LEVEL", text=f"one of {', '.join(logs.LEVELS)} (default: info)"
    )
    parser.add_option(
        "log-level-file",
        Path,
        default="",
        meta="FILE",
        text="file that holds a level, which takes precedence over --log-level; read at the start and at each SIGHUP",
    )


def add_maintenance(parser: Parser) -> None:
    """Add the options for the credentials of maintenance: freeing space, moving etcd's leadership, reading sizes.

    If authentication is enabled in etcd, these calls require the root role.
    """
    text = "user name for etcd's maintenance, which requires the root role (default: --user)"
    parser.add_option("maintenance-user", str, default="", meta="NAME", text=text)
    parser.add_option(
        "maintenance-password-file",
        Path,
        default="",
        meta="FILE",
        text="file whose first line is the password of --maintenance-user",
    )
    parser.add_option(
        "maintenance-cert",
        Path,
        default="",
        meta="FILE",
        text="file of a client certificate for maintenance, instead of a user",
    )
    parser.add_option(
        "maintenance-key", Path, default="", meta="FILE", text="file of the private key of --maintenance-cert"
    )


def maintenance_settings(options: argparse.Namespace, base: EtcdSettings) -> EtcdSettings:
    """`base` with the credentials for maintenance, if any are given. Invalid if they contradict each other."""
    user, password_file, cert, key = (
        getattr(options, f"maintenance_{name}") for name in ("user", "password_file", "cert", "key")
    )
    check_credentials(
        user=user, password_file=password_file, cert=cert, key=key, has_ca=base.ca is not None, prefix="--maintenance-"
    )
    if cert is not None:
        read_option_file("--maintenance-cert", cert)
        read_option_file("--maintenance-key", key)
        base = replace(base, user=None, password=None, password_file=None, cert=cert, key=key)
    if user is None:
        return base
    password = _read_password(password_file, "--maintenance-password-file")
    return replace(base, user=user, password=password, password_file=password_file)


def etcd_settings(options: argparse.Namespace) -> EtcdSettings:
    """The session's settings from parsed options. Invalid if the options contradict each other."""
    check_credentials(
        user=options.user,
        password_file=options.password_file,
        cert=options.cert,
        key=options.key,
        has_ca=options.ca is not None,
    )
    for name in ("ca", "cert", "key"):
        path = getattr(options, name)
        if path is not None:
            read_option_file(f"--{name}", path)
    file: Path | None = options.endpoints_file
    return EtcdSettings(
        endpoints=options.endpoints if file is None else read_endpoints(file),
        endpoints_file=file,
        user=options.user,
        password=_read_password(options.password_file),
        password_file=options.password_file,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
    )


def read_option_file(option: str, path: Path) -> bytes:
    """The content of the file that an option names. Invalid if it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{option}: cannot read {path}: {error.strerror or error}") from None


def read_log_level(file: Path | None, default: str) -> str:
    """The level in `file`; `default` if there is no file, or none is named. Raises Invalid if it holds no level."""
    if file is None:
        return default
    try:
        text = file.read_text("utf-8", "replace")[:_LEVEL_CHARS_MAX].strip().lower()
    except FileNotFoundError:
        return default
    except OSError as error:
        raise Invalid(f"--log-level-file: cannot read {file}: {error.strerror or error}") from None
    if text not in logs.LEVELS:
        raise Invalid(f"--log-level-file: {file} holds {text!r}, which is not one of {', '.join(logs.LEVELS)}")
    return text


def endpoints(text: str) -> tuple[str, ...]:
    """The endpoints in `host:port,host:port`. They keep their schemes, which are checked once --ca is known."""
    given = tuple(part.strip() for part in text.split(",") if part.strip())
    EtcdSettings(endpoints=tuple(host_port(part) for part in given))
    return given


def _parse_cluster(text: str) -> str:
    return check_name("cluster", text)


def _parse_level(text: str) -> str:
    if text.lower() not in logs.LEVELS:
        raise ValueError(f"{text!r} is not one of {', '.join(logs.LEVELS)}")
    return text.lower()


def _read_password(path: Path | None, option: str = "--password-file") -> str | None:
    if path is None:
        return None
    try:
        return read_password(path)
    except Invalid as error:
        raise Invalid(f"{option}: {error}") from None
