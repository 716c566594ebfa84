"""A key and a request for its certificate in a directory of the PC that will use them (`nodectl pki request`).

The key is written first. A process that dies before the request is written leaves a key that the next one uses. A key
that exists is never replaced, because a certificate in the same directory may belong to it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from nodestore.errors import Invalid
from nodestore.pki import signing
from nodestore.pki.authority_files import read_file
from nodestore.pki.identity import Subject
from nodestore.pki.private_files import make_private_directory, write_private, write_public
from nodestore.pki.signing_requests import load_key, new_request


@dataclass(frozen=True, slots=True)
class RequestFiles:
    """`keys`: the files of the key: a member of etcd has it under two names. made: whether the key is a new one."""

    request: Path
    keys: tuple[Path, ...]
    made: bool


def request(directory: Path, identity: Subject) -> RequestFiles:
    """Make a key, unless there is one, and the request for its certificate: <name>.key and <name>.csr. Idempotent.

    Raises Invalid if there is a key that cannot be used, NodectlError if a file cannot be written.
    """
    make_private_directory(directory)
    key_file, request_file = directory / f"{identity.name}.key", directory / f"{identity.name}.csr"
    made = not key_file.exists()
    if made:
        write_private(key_file, signing.key_bytes(signing.new_key()))
    content = read_file(key_file)
    try:
        wanted = new_request(identity, load_key(content))
    except Invalid as error:
        raise Invalid(f"{key_file}: {error}") from None
    keys = [key_file]
    if identity.kind == "etcd":  # its peers and its clients see two certificates, for this one key
        keys.append(directory / f"{identity.name}-peer.key")
        write_private(keys[1], content)
    write_public(request_file, wanted)
    return RequestFiles(request_file, tuple(keys), made)
