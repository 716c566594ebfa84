"""A cluster that `nodectl host` makes on PCs of the lab. Its operator is on a PC that never fails."""

from __future__ import annotations

import base64
import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.lab.lab import Lab
from tests.lab.pc import Pc

_NODECTL = "/opt/nodectl/bin/nodectl"
_COMMAND_S, _HOST_S = 120.0, 180.0
_SETTINGS = Path("/etc/nodectl")
_OPERATOR = _SETTINGS / "tls" / "operator"
_FILES = ("ca.crt", "ca.crl", "admin.crt", "admin.key")


class HostCluster:
    """lab: with the image of nodectl and etcd. directory: for the operator's files; commands in the lab can read it.

    pc1 is the signer. Methods of the class block, and each ends in a bounded time.
    """

    def __init__(self, lab: Lab, directory: Path) -> None:
        self._lab, self._directory = lab, directory

    @property
    def signer(self) -> Pc:
        return self._lab.pc(1)

    def pc(self, name: str) -> Pc:
        return self._lab.pc(int(name.removeprefix("pc")))

    def init(self) -> None:
        """Switch pc1 on, and make it the first PC of the cluster."""
        self.signer.on()
        self.host(f"init --name wall --address {self.signer.address}")
        self.copy_operator_files()

    def token(self) -> str:
        """A new token, with which eight PCs can join."""
        return next(word for word in self.host("token create").split() if word.startswith("NCT1."))

    def join(self, pc: Pc, token: str) -> None:
        """Switch a PC on, and have it join."""
        pc.on()
        pc.check(f"{_NODECTL} host join {self.signer.address} --token {token}", timeout_s=_HOST_S)

    def host(self, command: str) -> str:
        """The output of `nodectl host ...` on the signer. Raises LabError if it fails."""
        return self.signer.check(f"{_NODECTL} host {command}", timeout_s=_HOST_S)

    def voters(self) -> set[str]:
        """The PCs whose member votes, as the signer lists them."""
        done = self.signer.run(f"{_NODECTL} host list -o json", timeout_s=_COMMAND_S)
        return {item["name"] for item in json.loads(done.stdout or "[]") if item["member"] == "voter"}

    # --- the operator ---

    def copy_operator_files(self) -> None:
        """Give the operator what is on the signer: the certificate, and the present members of etcd."""
        self._directory.mkdir(exist_ok=True)
        for name in _FILES:
            self._write(name, self._content(_OPERATOR / name))
        settings = self._content(_SETTINGS / "nodectl.yaml").decode()
        self._write("nodectl.yaml", settings.replace(str(_OPERATOR), str(self._directory)).encode())

    def _content(self, path: Path) -> bytes:
        return base64.b64decode(self.signer.check(f"base64 {path}"))

    def _write(self, name: str, content: bytes) -> None:
        path = self._directory / name
        path.touch(mode=0o600)
        path.write_bytes(content)

    def nodectl(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run a command of the operator, whatever its exit code."""
        command = [sys.executable, "-m", "nodectl", "--config", str(self._directory / "nodectl.yaml"), *arguments]
        return self._lab.run(shlex.join(command), timeout_s=_COMMAND_S)

    def problems(self) -> str:
        """Empty if `nodectl status --check` finds no problem, else what it shows."""
        done = self.nodectl("status", "--check")
        return "" if done.returncode == 0 else f"exit code {done.returncode}\n{done.stdout}{done.stderr}"

    def leader(self) -> Pc | None:
        """The PC whose masterd leads; None if there is none, or if it is not known."""
        done = self.nodectl("status", "-o", "json")
        leader = json.loads(done.stdout or "{}").get("leader")
        return None if leader is None else self.pc(leader["id"])

    def takeover(self) -> str:
        """How the present leader took over, as `nodectl why` explains it."""
        found = json.loads(self.nodectl("why", "-o", "json").stdout or "{}")
        if not found.get("whole_s"):
            return "not known"
        return f"{found['master']} from {found['taken_from']} within {found['whole_s']:.2f} s ({found['cause']})"

    def set(self, key: str) -> bool:
        """Set a value in the document of pc2; whether that was acknowledged."""
        return self.nodectl("node", "set", "pc2", f"{key}=1").returncode == 0

    def document(self) -> dict[str, Any]:
        """The document of pc2; empty if no master shows it."""
        done = self.nodectl("node", "show", "pc2", "-o", "json")
        return dict(json.loads(done.stdout)["document"]) if done.returncode == 0 else {}
