"""The lab from a shell. Its files are in LAB_DIR. The commands of one PC take its number:

export LAB_DIR=$(mktemp -d)
python -m tests.lab start            # a switch; PCs have nodectl in /opt/nodectl and etcd in /usr/local/bin
python -m tests.lab on 1 2 3         # switch PCs on: pc1 (10.77.0.1) and so on
python -m tests.lab sh 1 'systemctl status'
python -m tests.lab op 'nodectl --masters https://10.77.0.1:8401 status'   # on a PC that never fails
python -m tests.lab cut 1            # power cut        shutdown 1, reboot 1: in order
python -m tests.lab unplug 1         # pull the cable   plug 1
python -m tests.lab wipe 1           # a new disk, of a PC that is off
python -m tests.lab list
python -m tests.lab stop
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from tests.lab.image import nodectl_image
from tests.lab.lab import Lab
from tests.lab.pc import LabError, Pc
from tests.support.etcd_cluster import find_etcd

_OF_PCS: Mapping[str, Callable[[Pc], None]] = {
    "on": Pc.on, "cut": Pc.power_off, "shutdown": Pc.shut_down, "reboot": Pc.reboot, "unplug": Pc.unplug,
    "plug": Pc.plug,
}  # fmt: skip


def main(arguments: list[str]) -> int:
    """Run one command; return the exit code."""
    directory = os.environ.get("LAB_DIR", "")
    if not arguments or arguments[0] in ("help", "-h", "--help") or not directory:
        print(__doc__)  # noqa: T201
        return 0 if arguments and directory else 2
    try:
        return _run(Lab(Path(directory), nodectl_image(find_etcd().parent)), *arguments)
    except (LabError, ValueError) as error:
        print(f"lab: {error}", file=sys.stderr)  # noqa: T201
        return 1


def _run(lab: Lab, command: str, *rest: str) -> int:
    if command == "start":
        lab.start(outlives=True)
    elif command == "stop":
        lab.close()
    elif command == "list":
        for number in lab.numbers:
            print(f"pc{number}  {'on' if lab.pc(number).is_on else 'off'}")  # noqa: T201
    elif command == "wipe":
        for text in rest:
            lab.wipe(int(text))
    elif command == "sh" and len(rest) == 2:
        return subprocess.run(lab.pc(int(rest[0])).enter(rest[1]), check=False).returncode
    elif command == "op" and len(rest) == 1:
        return subprocess.run([*lab.enter, "bash", "-c", rest[0]], check=False).returncode
    elif command in _OF_PCS and rest:
        for text in rest:
            _OF_PCS[command](lab.pc(int(text)))
    else:
        raise LabError(f"there is no command {command} {' '.join(rest)}: see python -m tests.lab --help")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
