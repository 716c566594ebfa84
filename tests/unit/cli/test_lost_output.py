"""Output that cannot be written: a command that took effect keeps its exit code, and a read that is lost fails."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from nodectl.terminal.output import Delivery, OutputLost
from tests.support.fakes.masterd import FakeCluster, node_view

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="needs a POSIX shell")

WAIT_S = 60.0
FULL = "/dev/full"
SET = "node set n1 a=1 -o json"
LIST = "node list -o json"
NO_ROOM = "the output cannot be written: No space left on device"
DONE = "; the command itself was carried out"


def _shell(cluster: FakeCluster, line: str) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which NODECTL stands for the program with the cluster's endpoints."""
    program = f'"{sys.executable}" -m nodectl --endpoints {",".join(cluster.urls)} --request-timeout 10'
    environ = {**os.environ, "NODECTL_CONFIG": os.devnull}
    return subprocess.run(
        ["bash", "-c", line.replace("NODECTL", program)],
        capture_output=True, text=True, timeout=WAIT_S, check=False, env=environ, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.fixture
def wall(cluster: FakeCluster) -> FakeCluster:
    cluster.nodes["n1"] = node_view("n1")
    return cluster


@pytest.mark.skipif(not Path(FULL).exists(), reason="this system has no /dev/full")
@pytest.mark.parametrize(
    ("line", "code", "message"),
    [
        (f"NODECTL {SET} > {FULL}", 0, NO_ROOM + DONE),
        (f"NODECTL {SET} > {FULL} 2>&1", 0, ""),
        (f"NODECTL {SET} 2> {FULL}", 0, ""),
        (f"NODECTL {LIST} > {FULL}", 1, NO_ROOM),
        (f"NODECTL {LIST} > {FULL} 2>&1", 1, ""),
        (f"NODECTL status -o json > {FULL}", 1, NO_ROOM),
        (f"NODECTL --help > {FULL}", 1, "No space left on device"),
        (f"NODECTL node set n1 a=1 --wait --timeout 0.2 -o json > {FULL}", 7, "waited"),
        (f"NODECTL node show n9 > {FULL}", 3, "no node"),
        (f"NODECTL command-id > {FULL}", 1, NO_ROOM),
    ],
)
def test_a_full_device(wall: FakeCluster, line: str, code: int, message: str) -> None:
    """One line on stderr, if that can be written."""
    if "--wait" in line:
        wall.nodes["n1"] |= {"converged": False, "problem": "applying"}
    ran = _shell(wall, line)
    assert ran.returncode == code, ran
    assert message in ran.stderr
    assert "Traceback" not in ran.stderr
    assert "internal error" not in ran.stderr
    assert "Exception ignored" not in ran.stderr
    assert len(wall.executed) == ("node set" in line)


@pytest.mark.parametrize(
    ("line", "code"),
    [
        (f"NODECTL {SET} >&-", 0), (f"NODECTL {SET} 2>&-", 0), (f"NODECTL {SET} >&- 2>&-", 0),
        (f"NODECTL {SET} <&- >&- 2>&-", 0), (f"NODECTL {LIST} >&-", 0), ("NODECTL node show n9 >&- 2>&-", 3),
        ("NODECTL --version >&-", 0), ("NODECTL nod >&- 2>&-", 2),
    ],
)  # fmt: skip
def test_a_closed_stream_is_the_null_device(wall: FakeCluster, line: str, code: int) -> None:
    """Its descriptor is not given to a connection, into which messages would then be written."""
    ran = _shell(wall, line)
    assert ran.returncode == code, ran
    assert "Traceback" not in ran.stderr
    assert "AttributeError" not in ran.stderr


def test_a_reader_that_has_gone(wall: FakeCluster) -> None:
    """Nothing is said. The change took effect; the read was not delivered."""
    ran = _shell(wall, f"NODECTL {SET} | true; echo ${{PIPESTATUS[0]}}; NODECTL {LIST} | true; echo ${{PIPESTATUS[0]}}")
    assert (ran.stdout.split(), ran.stderr) == (["0", "1"], "")


def test_a_stream_ends_when_its_reader_has_gone(wall: FakeCluster) -> None:
    """`history --follow | head -n 1` does not go on for ever. There are more lines than a pipe holds."""
    for number in range(3_000):
        wall.index += 1
        wall.record("node.set", {"node": "n1"}, None, "ann", f"c{number}")
    ran = _shell(wall, "NODECTL history -f --after 0 | head -n 1")
    assert len(ran.stdout.splitlines()) == 1
    assert ran.stderr == ""


def test_lost_output_is_explained_once() -> None:
    """The first reason, and none for a pipe that its reader has closed."""
    delivery = Delivery()
    with pytest.raises(OutputLost):
        delivery.mark_lost(OSError(28, "No space left on device"))
    delivery.has_effect = True
    delivery.mark_lost(OSError(28, "No space left on device"))
    delivery.mark_lost(OSError(5, "Input/output error"))
    assert delivery.explain_loss() == NO_ROOM + DONE
    assert Delivery(lost=BrokenPipeError(32, "Broken pipe")).explain_loss() == ""
    assert Delivery().explain_loss() == ""


# --- the cursor ---

_PROGRESS = """
import os, time
from nodectl.terminal.output import Output
with Output().progress("waiting"):
    os.write(1, b"ready\\n")
    time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT] if sys.platform != "win32" else [])
def test_the_cursor_comes_back_when_a_signal_ends_a_progress_line(number: int) -> None:
    """And the process ends by that signal, as its caller expects."""
    import pty  # POSIX only

    control, terminal = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", _PROGRESS],
        stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=terminal, env={**os.environ, "TERM": "xterm"},
    )  # fmt: skip
    os.close(terminal)
    try:
        assert child.stdout is not None
        assert child.stdout.readline() == b"ready\n"
        child.send_signal(number)
        child.wait(WAIT_S)
        shown = _read_all(control)
    finally:
        child.kill()
        child.wait()
        child.stdout.close()  # type: ignore[union-attr]
        os.close(control)
    assert child.returncode == -number
    assert shown.rindex(b"\x1b[?25h") > shown.rindex(b"\x1b[?25l")


def _read_all(control: int) -> bytes:
    """Everything that was written to the terminal; Linux reports EIO at its end."""
    shown = b""
    try:
        while part := os.read(control, 65_536):
            shown += part
    except OSError:
        pass
    return shown
