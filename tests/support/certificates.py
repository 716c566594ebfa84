"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

_EXTENSIONS = """
[ca]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
[leaf]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1
"""


class Authority:
    """A certificate authority in a directory. Skips the test if openssl is missing."""

    def __init__(self, directory: Path) -> None:
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("there is no openssl command to make certificates with")
        self._openssl, self._directory = openssl, directory
        directory.mkdir(parents=True, exist_ok=True)
        self._extensions = directory / "extensions.cnf"
        self._extensions.write_text(_EXTENSIONS)
        self.ca, self._ca_key = directory / "ca.pem", directory / "ca.key"
        self._request(self._ca_key, directory / "ca.csr", "test authority")
        self._sign(directory / "ca.csr", self.ca, "ca", "-signkey", str(self._ca_key))

    def issue(self, name: str) -> tuple[Path, Path]:
        """A certificate with this common name, for 127.0.0.1, and its key."""
        cert, key, request = (self._directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        self._request(key, request, name)
        self._sign(request, cert, "leaf", "-CA", str(self.ca), "-CAkey", str(self._ca_key), "-CAcreateserial")
        return cert, key

    def _request(self, key: Path, request: Path, name: str) -> None:
        self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
        self._run("req", "-new", "-key", str(key), "-subj", f"/CN={name}", "-out", str(request))

    def _sign(self, request: Path, cert: Path, section: str, *signer: str) -> None:
        self._run("x509", "-req", "-in", str(request), "-out", str(cert), "-days", "2", *signer,
                  "-extfile", str(self._extensions), "-extensions", section)  # fmt: skip

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._openssl, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
