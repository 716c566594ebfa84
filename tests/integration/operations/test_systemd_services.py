"""The manager of services on a PC with a real systemd: install, start, crash, upgrade, reboot, remove."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.lab.image import nodectl_image
from tests.lab.lab import Lab, LabMissing
from tests.lab.pc import Pc
from tests.support.waiting import eventually

pytestmark = pytest.mark.nightly

PATIENCE_S = 30.0
NAME = "nodectl-x"
_SCRIPT = """
import asyncio, json, sys
from pathlib import PurePosixPath
from nodestore.errors import NodectlError
from nodestore.services.manager import ServiceDefinition, ServiceDirectory
from nodestore.services.systemd import SystemdServices

async def main():
    services, results = SystemdServices(), []
    for call, argument in json.loads(sys.argv[1]):
        if call == "install":
            argument["directories"] = tuple(ServiceDirectory(PurePosixPath(path)) for path in argument["directories"])
            argument["argv"] = tuple(argument["argv"])
            argument = ServiceDefinition(**argument)
        try:
            result = await getattr(services, call)(argument)
        except NodectlError as error:
            result = f"error: {error}"
        is_status = call == "status" and not isinstance(result, str)
        results.append([result.state, result.pid, result.detail] if is_status else result)
    print(json.dumps(results))

asyncio.run(main())
"""


@pytest.fixture
def pc(tmp_path: Path) -> Iterator[Pc]:
    try:
        with Lab(tmp_path / "lab", nodectl_image()) as lab:
            pc = lab.pc(1)
            pc.put("/opt/manage.py", _SCRIPT.encode())
            pc.on()
            yield pc
    except LabMissing as reason:
        pytest.skip(str(reason))


def call(pc: Pc, *calls: tuple[str, object]) -> list[Any]:
    """The results of methods of the manager, called on the PC."""
    text = json.dumps(calls).replace("'", "'\\''")
    return list(json.loads(pc.check(f"/opt/nodectl/bin/python /opt/manage.py '{text}'")))


def service(command: str, **more: object) -> dict[str, object]:
    base = {"name": NAME, "description": "a test", "user": "nodectl-x", "directories": ["/var/lib/x", "/srv/x"]}
    return {**base, "argv": ["/bin/sh", "-c", command], **more}


async def test_a_service_from_its_installation_to_its_removal(pc: Pc) -> None:
    writes = "id -un > /srv/x/user; touch /var/lib/x/mark; exec sleep infinity"
    before, installed, stopped, _, (state, pid, _) = call(
        pc, ("status", NAME), ("install", service(writes)), ("status", NAME), ("start", NAME), ("status", NAME)
    )
    assert (before, installed, stopped) == (["absent", None, ""], True, ["stopped", None, ""])
    assert state in ("starting", "running")
    await eventually(lambda: pc.run("cat /srv/x/user").stdout == "nodectl-x\n", timeout_s=PATIENCE_S)
    assert call(pc, ("install", service(writes)), ("start", NAME)) == [False, None]
    assert pc.show(NAME, "MainPID") == str(pid)

    pc.check(f"kill -9 {pid}")  # a crash
    await eventually(lambda: pc.show(NAME, "MainPID") not in ("0", str(pid)), timeout_s=PATIENCE_S)

    pc.put(f"/etc/systemd/system/{NAME}.service.d/own.conf", b"[Service]\nNice=7\n")  # the administrator's
    assert call(pc, ("install", service("exec sleep 1000000"))) == [True]  # an upgrade
    assert "sleep infinity" in pc.check(f"ps -o args= -p {pc.show(NAME, 'MainPID')}")
    assert call(pc, ("restart", NAME)) == [None]
    assert "sleep 1000000" in pc.check(f"ps -o args= -p {pc.show(NAME, 'MainPID')}")
    assert pc.show(NAME, "Nice") == "7"

    pc.reboot()
    await eventually(lambda: pc.is_active(NAME), timeout_s=PATIENCE_S)
    assert call(pc, ("stop", NAME), ("status", NAME), ("stop", NAME)) == [None, ["stopped", None, ""], None]
    assert call(pc, ("remove", NAME), ("status", NAME), ("remove", NAME)) == [None, ["absent", None, ""], None]
    assert pc.check("ls /var/lib/x/mark /srv/x/user /etc/systemd/system/nodectl-x.service.d/own.conf")


async def test_what_is_never_ready_holds_no_caller(pc: Pc) -> None:
    """A program that never reports readiness, one that ends at once, and one that ignores the request to stop."""
    never = service("exec sleep infinity", notify=True)
    _, _, (state, _, _) = call(pc, ("install", never), ("start", NAME), ("status", NAME))
    assert state == "starting"
    ends = service("exit 3", restart_s=100.0)
    call(pc, ("install", ends), ("restart", NAME))
    await eventually(
        lambda: call(pc, ("status", NAME)) == [["failed", None, f"it ended (exit-code 3): see journalctl -u {NAME}"]],
        timeout_s=PATIENCE_S,
    )
    deaf = service("trap '' TERM; touch /srv/x/deaf; while :; do sleep 1; done", stop_timeout_s=1.0)
    call(pc, ("install", deaf), ("restart", NAME))
    await eventually(lambda: pc.run("test -e /srv/x/deaf").returncode == 0, timeout_s=PATIENCE_S)
    assert call(pc, ("stop", NAME), ("status", NAME))[0] is None


async def test_a_service_restarts_itself(pc: Pc) -> None:
    """hostd installs a newer version of itself and restarts. The call ends with the service that makes it."""
    run = "/opt/nodectl/bin/python /opt/manage.py"
    once = f'[ -e /srv/x/once ] || {{ touch /srv/x/once; {run} \'[["restart", "{NAME}"]]\'; }}; exec sleep infinity'
    call(pc, ("install", service(once, user=None, rights="host")), ("start", NAME))
    await eventually(
        lambda: "sleep infinity" in pc.run(f"ps -o args= -p {pc.show(NAME, 'MainPID')}").stdout, timeout_s=PATIENCE_S
    )
    assert pc.is_active(NAME)
