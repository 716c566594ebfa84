"""hostd's settings, from the command line and from the environment variables NODECTL_<NAME>."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hostd.pc.layout import Layout
from hostd.placement.placer import PlacementTiming
from nodestore.daemon.log_target import LogFileSettings, add_log_file, log_file_settings
from nodestore.daemon.options import Parser, read_log_level
from nodestore.errors import Invalid
from nodestore.support import logs
from nodestore.support.values import duration_between


@dataclass(frozen=True, kw_only=True)
class HostdSettings:
    """The validated settings of one hostd."""

    layout: Layout
    tick_s: float
    placement: PlacementTiming
    log_level: str
    log_file: LogFileSettings | None = None
    """Where the log goes; None: to stderr."""


def parse(arguments: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> HostdSettings:
    """Parse `arguments` (default: sys.argv). If one is wrong, print one line and raise SystemExit(2)."""
    parser = Parser("hostd", "Runs the nodectl services of this PC.", environ)
    parser.add_option(
        "root",
        Path,
        default="",
        meta="DIR",
        text="directory below which all files of this PC are (default: the system's)",
    )
    parser.add_option(
        "tick", duration_between(0.05, 60), default="2s", meta="TIME",
        text="interval of the comparison of what should run with what runs (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "settle", duration_between(0, 3_600), default="10s", meta="TIME",
        text="all members of etcd must be healthy for this long before the next change of members (default: "
        "%(default)s)",
    )  # fmt: skip
    parser.add_option(
        "learner-wait", duration_between(1, 86_400), default="10m", meta="TIME",
        text="how long a PC has to start its new member, before another PC is next (default: %(default)s)",
    )  # fmt: skip
    parser.add_option(
        "log-level", str, default="info", meta="LEVEL", text=f"one of {', '.join(logs.LEVELS)} (default: info)"
    )
    add_log_file(parser)
    options = parser.parse_args(arguments)
    try:
        level = read_log_level(None, options.log_level)
        if level not in logs.LEVELS:
            raise Invalid(f"--log-level: {level!r} is not one of {', '.join(logs.LEVELS)}")
    except Invalid as error:
        parser.error(error.message)
    return HostdSettings(
        layout=Layout.of(options.root),
        tick_s=options.tick,
        placement=PlacementTiming(settle_s=options.settle, learner_s=options.learner_wait, tick_s=options.tick),
        log_level=level,
        log_file=log_file_settings(options),
    )
