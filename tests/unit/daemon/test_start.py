"""What masterd and noded share at their start: log lines, options, signals."""

from __future__ import annotations

import argparse
import asyncio
import io
import logging
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from nodestore.daemon.options import Parser, add_common, etcd_settings
from nodestore.errors import Invalid
from nodestore.support import logs

# --- logs ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def root() -> Iterator[None]:
    """Puts the root logger back as it was."""
    logger = logging.getLogger()
    before, level = logger.handlers[:], logger.level
    yield
    logger.handlers[:] = before
    logger.setLevel(level)


def started(monkeypatch: pytest.MonkeyPatch, program: str, name: str, level: str) -> io.TextIOWrapper:
    """Set up the log, on a stderr like that of a pipe on Windows."""
    stream = io.TextIOWrapper(io.BytesIO(), encoding="cp1252")
    monkeypatch.setattr(sys, "stderr", stream)
    logs.setup_logging(program, name, level)
    return stream


def written(stream: io.TextIOWrapper) -> str:
    stream.flush()
    return stream.buffer.getvalue().decode()  # type: ignore[attr-defined, no-any-return]


def test_line_format(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """A line has the UTC time, level, logger and message, in UTF-8 even if the encoding of the pipe was cp1252."""
    lines = started(monkeypatch, "noded", "n1", "info")
    logging.getLogger("noded.reconcile.agent").info("scene %s ✓", "Küche")
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z INFO  noded n1: scene Küche ✓\n", written(lines))


@pytest.mark.skipif(sys.platform == "win32", reason="journald")
def test_the_priority_is_written_for_journald_alone(
    root: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """JOURNAL_STREAM names the stream, because a program that inherits the variable may write elsewhere."""
    with (tmp_path / "journal").open("w+") as journal, (tmp_path / "other").open("w+") as other:
        status = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{status.st_dev}:{status.st_ino}")
        for stream in (journal, other):
            monkeypatch.setattr(sys, "stderr", stream)
            logs.setup_logging("noded", "n1", "debug")
            for level in (logging.DEBUG, logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL):
                logging.getLogger("x").log(level, "text")
            logging.getLogger().handlers.clear()
            stream.seek(0)
        assert [line[:4] for line in journal] == ["<7>2", "<6>2", "<4>2", "<3>2", "<2>2"]
        assert {line[:1] for line in other} == {"2"}


def test_one_event_is_one_line(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Line breaks and control characters in what is quoted neither forge lines nor reach a terminal."""
    lines = started(monkeypatch, "noded", "n1", "info")
    logging.getLogger("x").warning("a\nb\x1b[31m%s", "c" * 10_000)
    text = written(lines)
    assert text.count("\n") == 1
    assert "a\\nb\\x1b[31m" in text
    assert len(text) < 5_000


def test_level_and_tracebacks(root: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Below the level nothing is written, and no traceback unless debugging."""
    lines = started(monkeypatch, "masterd", "m1", "warning")
    logging.getLogger("x").info("unseen")
    try:
        raise ValueError("why")
    except ValueError:
        logging.getLogger("x").exception("failed")
    assert written(lines).endswith("ERROR masterd m1: failed (ValueError: why)\n")


# --- options ---------------------------------------------------------------------------------------------------------


def parse(arguments: list[str], environ: dict[str, str] | None = None) -> argparse.Namespace:
    parser = Parser("prog", "", environ or {})
    add_common(parser)
    return parser.parse_args(arguments)


def test_command_line_wins_over_environment() -> None:
    """An option, else its variable, else its default."""
    environ = {"NODECTL_CLUSTER": "wall", "NODECTL_ENDPOINTS": "a:1, b:2", "NODECTL_LEASE_TTL": "7"}
    found = parse(["--lease-ttl", "3"], environ)
    assert (found.cluster, found.endpoints, found.lease_ttl, found.user) == ("wall", ("a:1", "b:2"), 3, None)
    assert parse(["--cluster", "x"]).endpoints == ("127.0.0.1:2379",)


@pytest.mark.parametrize(
    ("arguments", "environ", "says"),
    [
        ([], {}, "--cluster"),
        (["--cluster", "a/b"], {}, "cluster name 'a/b' is not allowed"),
        (["--cluster", "a", "--endpoints", "host"], {}, "'host' is not host:port"),
        (["--cluster", "a", "--endpoints", ","], {}, "no etcd endpoint"),
        (["--cluster", "a", "--endpoints", "ftp://h:1"], {}, "'ftp://h:1' is not host:port"),
        (["--cluster", "a", "--lease-ttl", "0"], {}, "'0' is not between 1s and 5m"),
        (["--cluster", "a", "--lease-ttl", "1500ms"], {}, "'1500ms' is not a whole number of seconds"),
        (["--cluster", "a"], {"NODECTL_LEASE_TTL": "soon"}, "'soon' is not a time such as 0.3, 300ms, 5s, 5m or 1h"),
        (["--cluster", "a", "--log-level", "loud"], {}, "'loud' is not one of"),
        (["--cluster", "a", "--clust", "b"], {}, "unrecognized arguments"),
    ],
)
def test_mistakes_are_one_line(
    arguments: list[str], environ: dict[str, str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """What is wrong ends the program with one line and exit code 2."""
    with pytest.raises(SystemExit) as ended:
        parse(arguments, environ)
    assert ended.value.code == 2
    text = capsys.readouterr().err
    assert says in text
    assert text.count("\n") == 1


def test_etcd_settings(tmp_path: Path) -> None:
    """The password is the file's first line; files are read before anything is started."""
    password, ca = tmp_path / "password", tmp_path / "ca.pem"
    password.write_text("se cret\n\n")
    ca.write_text("pem")
    found = etcd_settings(parse(["--cluster", "a", "--user", "u", "--password-file", str(password), "--ca", str(ca)]))
    assert (found.user, found.password, found.ca) == ("u", "se cret", ca)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--user", "u"], "--user and --password-file"),
        (["--user", "u", "--password-file", "/nowhere/x"], "--password-file: cannot read password file /nowhere/x"),
        (["--ca", "/nowhere/x"], "--ca: cannot read"),
        (["--cert", "c"], "--cert and --key"),
        (["--cert", "c", "--key", "k"], "--cert needs --ca"),
        (["--endpoints", "https://h:2379"], "requires TLS.*--ca"),
        (["--endpoints", "h:1,HTTPS://h:2"], "'HTTPS://h:2' requires TLS"),
        (["--endpoints", "http://h:2379", "--ca", __file__], "means plain TCP.*omit --ca"),
    ],
)
def test_settings_that_do_not_fit(arguments: list[str], says: str) -> None:
    """Options that make no sense together are named."""
    with pytest.raises(Invalid, match=says):
        etcd_settings(parse(["--cluster", "a", *arguments]))


def test_a_scheme_that_agrees_with_the_authority_is_left_out(tmp_path: Path) -> None:
    """https:// with --ca, http:// without; what is connected to is host:port."""
    ca = tmp_path / "ca.pem"
    ca.write_text("pem")
    found = etcd_settings(parse(["--cluster", "a", "--ca", str(ca), "--endpoints", "https://h:1/,h:2"]))
    assert found.endpoints == ("h:1", "h:2")
    assert etcd_settings(parse(["--cluster", "a", "--endpoints", "http://h:1"])).endpoints == ("h:1",)


# --- signals ---------------------------------------------------------------------------------------------------------

WAITS = (
    "import asyncio\nfrom nodestore.daemon.signals import handle_signals\n"
    "async def main():\n    stop = handle_signals().stop; print('ready', flush=True)\n"
    "    await stop.wait(); print('asked')\n"
    "asyncio.run(main())"
)


@pytest.mark.skipif(sys.platform == "win32", reason="covered by stopping whole programs")
@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
async def test_being_asked_to_stop(name: str) -> None:
    """SIGTERM and Ctrl-C end the wait, not the program."""
    import signal

    child = await asyncio.create_subprocess_exec(sys.executable, "-c", WAITS, stdout=subprocess.PIPE)
    assert child.stdout is not None
    assert await child.stdout.readline() == b"ready\n"
    child.send_signal(getattr(signal, name))
    assert await child.stdout.read() == b"asked\n"
    assert await child.wait() == 0


def test_masterd_asks_whether_this_pc_has_the_address() -> None:
    """At the start of a PC whose cable is pulled, its address may be missing. No other masterd is to blame."""
    done = subprocess.run(
        [sys.executable, "-m", "masterd", "--id", "pc1", "--cluster", "w", "--listen", "192.0.2.1:8401", "--insecure"],
        capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].endswith("; does this PC have that address now?")
