"""Certificates for tests, made with the openssl command."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path

import pytest

_AUTHORITY_S = 20 * 365 * 86_400

_EXTENSIONS = """
[ca]
default_ca = default
[default]
database = DIRECTORY/index.txt
serial = DIRECTORY/serial
new_certs_dir = DIRECTORY
default_md = sha256
unique_subject = no
policy = policy
[policy]
commonName = supplied
[authority]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[leaf]
basicConstraints = CA:FALSE
keyUsage = critical, digitalSignature
extendedKeyUsage = serverAuth, clientAuth
subjectAltName = DNS:localhost, IP:127.0.0.1, IP:::1
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid
"""


class Authority:
    """A certificate authority in a directory. Skips the test if openssl is missing. rsa: keys are of RSA, not ECDSA."""

    def __init__(self, directory: Path, *, rsa: bool = False) -> None:
        self._rsa = rsa
        openssl = shutil.which("openssl")
        if openssl is None:
            pytest.skip("there is no openssl command to make certificates with")
        self._openssl, self._directory = openssl, directory
        directory.mkdir(parents=True, exist_ok=True)
        self._extensions = directory / "extensions.cnf"
        self._extensions.write_text(_EXTENSIONS.replace("DIRECTORY", str(directory)))
        (directory / "index.txt").touch()
        self.ca, self._ca_key = directory / "ca.pem", directory / "ca.key"
        self._request(self._ca_key, directory / "ca.csr", "test authority")
        self._sign(directory / "ca.csr", self.ca, "authority", "-selfsign", "-keyfile", str(self._ca_key),
                   end=time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + _AUTHORITY_S)))  # fmt: skip

    def issue(
        self, name: str, *, seconds: int = 2 * 86_400, renew_key: bool = True, password: str | None = None
    ) -> tuple[Path, Path]:
        """A certificate with this common name, for this machine, that ends after `seconds`, and its key.

        renew_key: whether a key of an earlier call is replaced. password: what the key is encrypted with.
        """
        cert, key, request = (self._directory / f"{name}.{suffix}" for suffix in ("pem", "key", "csr"))
        self._request(key, request, name, renew_key=renew_key)
        end = time.strftime("%Y%m%d%H%M%SZ", time.gmtime(time.time() + seconds))
        self._sign(request, cert, "leaf", "-cert", str(self.ca), "-keyfile", str(self._ca_key), end=end)
        if password is not None:
            self._run("ec", "-in", str(key), "-aes256", "-passout", f"pass:{password}", "-out", str(key))
        return cert, key

    def _request(self, key: Path, request: Path, name: str, *, renew_key: bool = True) -> None:
        if renew_key or not key.exists():
            if self._rsa:
                self._run("genrsa", "-out", str(key), "2048")
            else:
                self._run("ecparam", "-name", "prime256v1", "-genkey", "-noout", "-out", str(key))
        self._run("req", "-new", "-key", str(key), "-subj", f"/CN={name}", "-out", str(request))

    def _sign(self, request: Path, cert: Path, section: str, *signer: str, end: str) -> None:
        """Sign the request. `end`: when the certificate ends, which the command `x509` cannot take in seconds."""
        self._run("ca", "-batch", "-notext", "-create_serial", "-in", str(request), "-out", str(cert), "-enddate", end,
                  *signer, "-config", str(self._extensions), "-extensions", section)  # fmt: skip

    def _run(self, *arguments: str) -> None:
        done = subprocess.run([self._openssl, *arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
