"""The shipped units under real systemds: PCs that boot alone, crash, hang, reboot and lose their power."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from noded.reconcile.last_applied import LastApplied
from nodestore.schema.models import Desired
from tests.lab import by_hand
from tests.lab.image import nodectl_image
from tests.lab.lab import Lab, LabMissing
from tests.lab.pc import LabError, Pc
from tests.support.etcd_cluster import find_etcd
from tests.support.waiting import eventually, first_true

pytestmark = pytest.mark.nightly

PATIENCE_S = 60.0
MEMBERS = (1, 2, 3)
QUICK_WATCHDOG = b"[Service]\nWatchdogSec=2\n"
NEVER_ONLINE = b"""[Unit]
Before=network-online.target
DefaultDependencies=no
[Service]
Type=oneshot
TimeoutStartSec=infinity
ExecStart=/bin/sleep infinity
[Install]
WantedBy=network-online.target
"""


@pytest.fixture
def lab(tmp_path: Path) -> Iterator[Lab]:
    try:
        with Lab(tmp_path / "lab", nodectl_image(find_etcd().parent)) as lab:
            yield lab
            for number in lab.numbers:  # shown if the test fails
                if (pc := lab.pc(number)).is_on:
                    print(f"--- {pc.name}\n{pc.run('journalctl --no-pager -o cat -n 30').stdout}", file=sys.stderr)  # noqa: T201
    except LabMissing as reason:
        pytest.skip(str(reason))


def installed(lab: Lab, *numbers: int) -> list[Pc]:
    """PCs that are on, with everything installed and nothing started."""
    pcs = [lab.pc(number) for number in numbers]
    for pc in pcs:
        pc.on()
        by_hand.install(pc, MEMBERS)
    return pcs


def cluster(lab: Lab) -> list[Pc]:
    """Three PCs whose services run."""
    pcs = installed(lab, *MEMBERS)
    for pc in pcs:
        by_hand.start(pc)
    return pcs


def give_program(pc: Pc, directory: Path) -> None:
    """Make noded remember that it applied a program before its PC was switched off."""
    settings = {"argv": ["/bin/sh", "-c", "echo $$ > /var/lib/nodectl/noded/runs; exec sleep 3600"]}
    desired = Desired.model_validate(
        {"epoch": 1, "term": 5, "generation": 7, "spec": {"driver": "process", "settings": settings, "document": {}}}
    )
    LastApplied(directory).save(desired)
    content = (directory / ".noded" / "applied.json").read_bytes()
    pc.put("/var/lib/nodectl/noded/.noded/applied.json", content)
    pc.check("chown -R nodectl-noded: /var/lib/nodectl/noded")


def program_pid(pc: Pc) -> int:
    """The pid of the program that noded runs; 0 if none runs."""
    text = pc.run("pid=$(cat /var/lib/nodectl/noded/runs) && kill -0 $pid && echo $pid").stdout.strip()
    return int(text or 0)


def main_pid(pc: Pc, unit: str) -> int:
    return int(pc.show(unit, "MainPID"))


def leader(lab: Lab) -> str:
    """The id of the leader that etcd names; empty if there is none."""
    endpoints = ",".join(f"10.77.0.{number}:2379" for number in MEMBERS)
    done = lab.run(f"{find_etcd().parent}/etcdctl --endpoints {endpoints} get /nodectl/wall/leader -w json")
    pairs = json.loads(done.stdout or "{}").get("kvs", [])
    if not pairs:
        return ""
    import base64

    return str(json.loads(base64.b64decode(pairs[0]["value"]))["id"])


async def all_active(*pcs: Pc) -> None:
    for pc in pcs:
        for unit in by_hand.SERVICES:
            await eventually(partial(pc.is_active, unit), f"{unit} is active on {pc.name}", timeout_s=PATIENCE_S)


async def test_a_pc_that_boots_alone_runs_all_it_can(lab: Lab, tmp_path: Path) -> None:
    """Without a quorum, and with a network that never comes online. Nothing waits for what may never come."""
    (pc,) = installed(lab, 1)
    give_program(pc, tmp_path / "before")
    pc.put("/etc/systemd/system/never-online.service", NEVER_ONLINE)
    pc.check("systemctl enable never-online")
    pc.power_off()
    pc.on()
    await all_active(pc)
    assert await first_true(partial(program_pid, pc), "the program runs", timeout_s=PATIENCE_S)
    await eventually(
        lambda: "journal has not been read" in pc.show("nodectl-masterd", "StatusText"),
        lambda: f"no reason in {pc.show('nodectl-masterd', 'StatusText')!r}",
        timeout_s=PATIENCE_S,
    )
    jobs = pc.check("systemctl list-jobs --no-legend")
    assert "nodectl" not in jobs
    pc.check("systemctl reload nodectl-noded nodectl-masterd")
    for unit in ("nodectl-noded", "nodectl-masterd"):
        await eventually(lambda unit=unit: "SIGHUP: reads" in pc.journal(unit), f"{unit} reads its files")
        assert pc.show(unit, "ActiveState") == "active"


async def test_each_program_runs_as_its_own_user_with_the_least_rights(lab: Lab) -> None:
    (pc,) = installed(lab, 1)
    by_hand.start(pc)
    await all_active(pc)
    users = {unit: pc.check(f"stat -c %U /proc/{main_pid(pc, unit)}").strip() for unit in by_hand.SERVICES}
    assert users == {"nodectl-etcd": "etcd", "nodectl-masterd": "nodectl-masterd", "nodectl-noded": "nodectl-noded"}
    for unit, bits in {"nodectl-etcd": "0", "nodectl-masterd": "0"}.items():
        status = pc.check(f"grep -E 'CapBnd|NoNewPrivs|Seccomp:' /proc/{main_pid(pc, unit)}/status").split()
        assert [status[1].lstrip("0") or "0", status[3], status[5]] == [bits, "1", "2"], unit
    assert "without TLS" in pc.check("journalctl -o cat --no-pager -p warning -t nodectl-masterd")
    assert " INFO " not in pc.check("journalctl -o cat --no-pager -p warning -t nodectl-masterd")
    for directory in ("etcd", "nodectl/masterd", "nodectl/noded"):
        assert pc.check(f"stat -c %a /var/lib/{directory}").strip() == "700"


async def test_a_program_that_hangs_is_killed_and_comes_back(lab: Lab, tmp_path: Path) -> None:
    """SIGSTOP stands for a loop that hangs. The program that noded runs ends with it, and is started again."""
    (pc,) = installed(lab, 1)
    give_program(pc, tmp_path / "before")
    for unit in ("nodectl-masterd", "nodectl-noded"):
        pc.put(f"/etc/systemd/system/{unit}.service.d/quick.conf", QUICK_WATCHDOG)
    pc.check("systemctl daemon-reload")
    by_hand.start(pc)
    program = await first_true(partial(program_pid, pc), "the program runs", timeout_s=PATIENCE_S)
    before = {unit: main_pid(pc, unit) for unit in ("nodectl-masterd", "nodectl-noded")}
    for unit, pid in before.items():
        pc.check(f"kill -STOP {pid}")
        await eventually(
            lambda unit=unit, pid=pid: main_pid(pc, unit) not in (0, pid),
            f"{unit} is back",
            timeout_s=PATIENCE_S,
        )
        await eventually(partial(pc.is_active, unit), f"{unit} is active", timeout_s=PATIENCE_S)
        assert "Watchdog timeout" in pc.journal(unit)
        assert "Fatal Python error: Aborted" in pc.journal(unit, lines=300)  # and then where it hung
    assert await first_true(lambda: program_pid(pc) not in (0, program), "the program is back", timeout_s=PATIENCE_S)


async def test_what_crashes_comes_back(lab: Lab) -> None:
    (pc,) = installed(lab, 1)
    by_hand.start(pc)
    for unit in by_hand.SERVICES:
        pid = main_pid(pc, unit)
        pc.check(f"kill -KILL {pid}")
        await eventually(
            lambda unit=unit, pid=pid: main_pid(pc, unit) not in (0, pid) and pc.is_active(unit),
            f"{unit} is back", timeout_s=PATIENCE_S,
        )  # fmt: skip


async def test_a_reboot_hands_over_before_etcd_stops(lab: Lab) -> None:
    """masterd is ordered after etcd for this alone: a handover needs this PC's member, or another one."""
    cluster(lab)
    name = await first_true(lambda: leader(lab), "there is a leader", timeout_s=PATIENCE_S)
    await all_active(*map(lab.pc, MEMBERS))
    pc = lab.pc(int(name.removeprefix("pc")))
    pc.reboot()
    await eventually(lambda: leader(lab) not in ("", name), "another one leads", timeout_s=PATIENCE_S)
    journal = pc.check("journalctl --no-pager -o cat").splitlines()
    order = [
        _line_with(journal, text)
        for text in ("handed over: asked to stop", "Stopped nodectl-masterd", "Stopped nodectl-etcd")
    ]
    assert order == sorted(order)
    await all_active(pc)


async def test_after_a_power_cut_and_a_pulled_cable_all_is_back(lab: Lab) -> None:
    pcs = cluster(lab)
    name = await first_true(lambda: leader(lab), "there is a leader", timeout_s=PATIENCE_S)
    lost = lab.pc(int(name.removeprefix("pc")))
    lost.power_off()
    second = await first_true(lambda: (found := leader(lab)) != name and found, "another leads", timeout_s=PATIENCE_S)
    lost.on()
    await all_active(lost)
    unplugged = lab.pc(int(second.removeprefix("pc")))
    unplugged.unplug()
    await eventually(lambda: leader(lab) not in ("", second), "a third one leads", timeout_s=PATIENCE_S)
    unplugged.plug()
    for pc in pcs:
        pc.power_off()
    for pc in pcs:
        pc.on()
    await all_active(*pcs)
    assert await first_true(lambda: leader(lab), "there is a leader", timeout_s=PATIENCE_S)


def _line_with(lines: list[str], text: str) -> int:
    return next((number for number, line in enumerate(lines) if text in line), -1)


def test_two_labs_at_once_do_not_meet(lab: Lab, tmp_path: Path) -> None:
    """They have PCs of the same names and addresses. One has a file of an earlier lab, whose pid is the other's now."""
    directory = tmp_path / "other"
    directory.mkdir()
    (directory / "anchor").write_text((tmp_path / "lab" / "anchor").read_text())
    pc, connect = lab.pc(1), f"exec 3<>/dev/tcp/{lab.pc(1).address}/8000"
    pc.on()
    pc.check("systemd-run --unit=server /opt/nodectl/bin/python -m http.server 8000")
    while lab.run(connect).returncode != 0:
        assert pc.is_active("server")
    with Lab(directory, nodectl_image()) as other:
        assert other.numbers == []
        other.pc(1).on()
        assert "Connection refused" in other.run(connect).stderr
        other.pc(1).power_off()
        with pytest.raises(LabError, match=f"a lab runs in {directory} already"):
            Lab(directory, nodectl_image()).start()
    assert lab.run(connect).returncode == 0


def test_the_lab_from_a_shell(tmp_path: Path) -> None:
    """Each command is a process of its own. The lab lives until it is stopped."""

    def lab(*arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "tests.lab", *arguments],
            env={"LAB_DIR": str(tmp_path), "PATH": "/usr/sbin:/usr/bin"},
            capture_output=True, text=True, timeout=PATIENCE_S, check=False, cwd=Path(__file__).parents[3],
        )  # fmt: skip

    started = lab("start")
    if started.returncode != 0:
        pytest.skip(started.stderr)
    try:
        assert lab("on", "4").returncode == 0
        assert lab("list").stdout == "pc4  on\n"
        assert lab("sh", "4", "hostname; touch /etc/mark; exit 3").returncode == 3
        assert lab("wipe", "4").stderr == "lab: pc4 is on: switch it off first\n"
        assert lab("cut", "4").returncode == 0
        assert lab("list").stdout == "pc4  off\n"
        assert lab("on", "4").returncode == 0
        assert lab("sh", "4", "test -e /etc/mark").returncode == 0
        assert lab("dance", "4").returncode == 1
    finally:
        assert lab("stop").returncode == 0
    assert lab("list").stdout == ""
