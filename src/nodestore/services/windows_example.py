"""The definition of masterd for an installation by hand on Windows, which docs/services.md shows. Pure."""

from __future__ import annotations

from dataclasses import replace
from pathlib import PureWindowsPath

from nodestore.services.definitions import MASTERD
from nodestore.services.manager import ServiceDirectory
from nodestore.services.nssm_settings import script

_ROOT = PureWindowsPath("C:/nodectl")
_PYTHON = "C:\\Program Files\\Python311\\python.exe"


def masterd_script() -> str:
    """The lines that install masterd of pc1 and start it."""
    tls = _ROOT / "tls"
    options = {
        "id": "pc1", "cluster": "wall", "listen": "192.168.10.11:8401",
        "endpoints": "192.168.10.11:2379,192.168.10.12:2379,192.168.10.13:2379",
        "max-txn-ops": "4096", "max-request-bytes": "8388608", "state-dir": f"{_ROOT / 'masterd'}",
        "ca": f"{tls / 'ca.crt'}", "cert": f"{tls / 'pc1.crt'}", "key": f"{tls / 'pc1.key'}",
        "tls-ca": f"{tls / 'ca.crt'}", "tls-cert": f"{tls / 'pc1.crt'}", "tls-key": f"{tls / 'pc1.key'}",
        "tls-crl": f"{tls / 'ca.crl'}",
    }  # fmt: skip
    words = (word for name, value in options.items() for word in (f"--{name}", value))
    definition = replace(
        MASTERD,
        argv=(_PYTHON, "-m", "masterd", *words),
        env={},
        env_file=None,
        directories=(ServiceDirectory(_ROOT / "masterd"),),
        log=_ROOT / "log" / "masterd.log",
    )
    return "\n".join(script(definition, f"{_ROOT / 'nssm.exe'}"))
