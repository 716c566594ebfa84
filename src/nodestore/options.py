"""Command-line options that masterd and noded share. Each can also be given in the environment.

`--lease-ttl` is NODECTL_LEASE_TTL, and so on; the command line wins. What is wrong ends the program with one line
that names the option and exit code 2.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from nodestore import logs
from nodestore.errors import Invalid, NodectlError
from nodestore.etcd import EtcdSettings
from nodestore.etcd_login import first_line
from nodestore.etcd_types import host_port
from nodestore.keys import check_name

T = TypeVar("T")

_YES, _NO = ("1", "true", "yes"), ("0", "false", "no", "")


class Parser(argparse.ArgumentParser):
    """An ArgumentParser whose errors are one line, and whose options have defaults from the environment."""

    def __init__(self, program: str, description: str, environ: Mapping[str, str] | None = None) -> None:
        super().__init__(
            prog=program,
            description=description,
            epilog="Each option --some-name can also be given as NODECTL_SOME_NAME in the environment.",
            allow_abbrev=False,  # an abbreviation that works today is ambiguous after the next release
        )
        self._environ = os.environ if environ is None else environ

    def option(
        self, name: str, convert: Callable[[str], T], *, default: T | str | None = None, meta: str, text: str
    ) -> None:
        """Add `--name`. `convert` raises ValueError, or a NodectlError, that says what is wrong with the text.

        A default that is a str is converted like any text given. Without a default the option is required,
        unless the default is spelled as "" (then it is None when absent).
        """
        variable = "NODECTL_" + name.replace("-", "_").upper()
        given: Any = self._environ.get(variable) or default

        def checked(value: str) -> T:
            try:
                return convert(value)
            except (ValueError, NodectlError) as error:
                raise argparse.ArgumentTypeError(f"{error}") from None

        self.add_argument(
            f"--{name}",
            type=checked,
            default=None if given == "" else given,
            required=given is None,
            metavar=meta,
            help=text,
        )

    def flag(self, name: str, *, text: str) -> None:
        """Add `--name`, which is off unless given. In the environment: 1, true or yes; 0, false, no or nothing."""
        variable = "NODECTL_" + name.replace("-", "_").upper()
        given = self._environ.get(variable, "").lower()
        if given not in (*_YES, *_NO):
            self.error(f"{variable}: {given!r} is neither 1 nor 0")
        self.add_argument(f"--{name}", action="store_true", default=given in _YES, help=text)

    def error(self, message: str) -> NoReturn:
        sys.stderr.write(f"{self.prog}: {message} (see {self.prog} --help)\n")
        raise SystemExit(2)


def add_common(parser: Parser) -> None:
    """The options that every program which talks to etcd has."""
    parser.option("cluster", _cluster, meta="NAME", text="name of the cluster; its keys are under /nodectl/NAME/")
    parser.option(
        "endpoints",
        endpoints,
        default="127.0.0.1:2379",
        meta="HOST:PORT,...",
        text="etcd's members, this PC's own first (default: %(default)s)",
    )
    parser.option("user", str, default="", meta="NAME", text="user of etcd")
    parser.option("password-file", Path, default="", meta="FILE", text="file whose first line is that user's password")
    parser.option("ca", Path, default="", meta="FILE", text="certificate authority of etcd's members: turns TLS on")
    parser.option("cert", Path, default="", meta="FILE", text="our certificate for etcd")
    parser.option("key", Path, default="", meta="FILE", text="the key of that certificate")
    parser.option(
        "lease-ttl",
        whole_seconds(1, 300),
        default="2",
        meta="SECONDS",
        text="after how long without a sign of life etcd gives us up (default: %(default)s)",
    )
    parser.option(
        "log-level", _level, default="info", meta="LEVEL", text=f"one of {', '.join(logs.LEVELS)} (default: info)"
    )


def add_maintenance(parser: Parser) -> None:
    """Who makes room in etcd, moves its leadership and reads its sizes, where it has users: all that is root's."""
    text = "user of etcd with the rights of root, for its maintenance (default: the same as all else)"
    parser.option("maintenance-user", str, default="", meta="NAME", text=text)
    parser.option("maintenance-password-file", Path, default="", meta="FILE", text="file with that user's password")
    parser.option("maintenance-cert", Path, default="", meta="FILE", text="a certificate of such a user, instead")
    parser.option("maintenance-key", Path, default="", meta="FILE", text="the key of that certificate")


def maintenance_settings(options: argparse.Namespace, base: EtcdSettings) -> EtcdSettings:
    """`base` with the credential for maintenance, if there is one. Invalid when its parts do not fit together."""
    user, password, cert, key = (
        getattr(options, f"maintenance_{name}") for name in ("user", "password_file", "cert", "key")
    )
    if (user is None) != (password is None):
        raise Invalid("--maintenance-user and --maintenance-password-file belong together: give both or neither")
    if (cert is None) != (key is None):
        raise Invalid("--maintenance-cert and --maintenance-key belong together: give both or neither")
    if cert is not None and key is not None:
        if base.ca is None:
            raise Invalid("--maintenance-cert needs --ca: without it certificates are not used")
        readable("--maintenance-cert", cert)
        readable("--maintenance-key", key)
        base = replace(base, user=None, password=None, password_file=None, cert=cert, key=key)
    if user is None:
        return base
    secret = _password(password, "--maintenance-password-file")
    return replace(base, user=user, password=secret, password_file=password)


def etcd_settings(options: argparse.Namespace) -> EtcdSettings:
    """The session's settings from parsed options. Invalid, in one sentence, when they do not fit together."""
    if (options.user is None) != (options.password_file is None):
        raise Invalid("--user and --password-file belong together: give both or neither")
    if (options.cert is None) != (options.key is None):
        raise Invalid("--cert and --key belong together: give both or neither")
    if options.cert is not None and options.ca is None:
        raise Invalid("--cert needs --ca: without it the connection is not encrypted and certificates are not used")
    for name in ("ca", "cert", "key"):
        path = getattr(options, name)
        if path is not None:
            readable(f"--{name}", path)
    return EtcdSettings(
        endpoints=options.endpoints,
        user=options.user,
        password=_password(options.password_file),
        password_file=options.password_file,
        ca=options.ca,
        cert=options.cert,
        key=options.key,
    )


def readable(option: str, path: Path) -> bytes:
    """The bytes of the file that an option names; Invalid when it cannot be read."""
    try:
        return path.read_bytes()
    except OSError as error:
        raise Invalid(f"{option}: cannot read {path}: {error.strerror or error}") from None


def endpoints(text: str) -> tuple[str, ...]:
    """`host:port,host:port`, checked, each as it was given: whether its scheme fits is known once --ca is."""
    given = tuple(part.strip() for part in text.split(",") if part.strip())
    EtcdSettings(tuple(host_port(part) for part in given))
    return given


def seconds(least: float, most: float) -> Callable[[str], float]:
    """A converter for a time within bounds, both in seconds: `0.3`, `0.3s` and `300ms` are the same."""

    def convert(text: str) -> float:
        value = _seconds(text)
        if not least <= value <= most:
            raise ValueError(f"{text} is not between {told_s(least)} and {told_s(most)}")
        return value

    return convert


def whole_seconds(least: int, most: int) -> Callable[[str], int]:
    """The same for a time that is a whole number of seconds."""
    bounded = seconds(least, most)

    def convert(text: str) -> int:
        value = bounded(text)
        if value != int(value):
            raise ValueError(f"{text} is not a whole number of seconds")
        return int(value)

    return convert


_UNITS_S = {"ms": 0.001, "s": 1.0, "": 1.0}
_TIME = re.compile(r"(?P<number>[0-9]{1,9}(?:\.[0-9]{0,9})?|\.[0-9]{1,9})\s*(?P<unit>ms|s|)", re.ASCII)


def _seconds(text: str) -> float:
    found = _TIME.fullmatch(text.strip())
    if found is None:
        raise ValueError(f"{text!r} is not a time such as 0.3, 0.3s or 300ms")
    return round(float(found["number"]) * _UNITS_S[found["unit"]], 9)


def told_s(value_s: float) -> str:
    """A time as people write it: `50 ms`, `2 s`."""
    return f"{value_s * 1e3:g} ms" if 0 < value_s < 1 else f"{value_s:g} s"


def whole(least: int, most: int) -> Callable[[str], int]:
    """A converter for a whole number within bounds."""

    def convert(text: str) -> int:
        try:
            value = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is not a number") from None
        if not least <= value <= most:
            raise ValueError(f"{text} is not between {least} and {most}")
        return value

    return convert


def _cluster(text: str) -> str:
    return check_name("cluster", text)


def _level(text: str) -> str:
    if text.lower() not in logs.LEVELS:
        raise ValueError(f"{text!r} is not one of {', '.join(logs.LEVELS)}")
    return text.lower()


def _password(path: Path | None, option: str = "--password-file") -> str | None:
    """The first line of the file, so that an editor's newline at its end is not part of the password."""
    if path is None:
        return None
    password = first_line(readable(option, path))
    if not password:
        raise Invalid(f"{option}: {path} is empty")
    return password
