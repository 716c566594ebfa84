"""Replaces an authority by a new one, while the cluster is online, in three steps.

    trust       the new authority is made, and ca.crt holds both: every program must trust both before the next step
    reissue     the new authority signs, and every certificate is issued anew: the old ones are valid still
    remove      ca.crt holds the new one alone: a certificate of the old authority is worth nothing any more

After each step, the directories of all identities must be copied to their PCs. No program fails meanwhile, because
whoever connects and whoever accepts trust both authorities from before the first new certificate is used until after
the last old one was replaced.

The new authority has the name of the old one, and another key. So one revocation list names certificates of both, which
etcd needs, because it reads a list of one authority only.

The process may die between any two writes:

    trust       The new key is written before its certificate. A key without a certificate is made anew. The certificate
                exists before ca.crt holds it; a repeat completes that.
    reissue     The old key is replaced by the new one in a single rename: from then on the new authority signs. As long
                as `ca-next.key` exists, it has not begun to. What was not reissued yet is found by its certificate, by
                a repeat and by each `renew`.
    remove      ca.crt is written before `ca-next.crt` is deleted, so a repeat finds what is left to do.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, get_args

from nodestore.errors import Conflict
from nodestore.pki import signing
from nodestore.pki.authority_files import AuthorityFiles, read_file
from nodestore.pki.private_files import replace_private, write_private, write_public
from nodestore.pki.records import AuthorityName
from nodestore.support.tls_files import authorities_in

RotationStep = Literal["trust", "reissue", "remove"]
STEPS: tuple[RotationStep, ...] = get_args(RotationStep)
_SHOWN_MAX = 5


def last_step(files: AuthorityFiles, authority: AuthorityName) -> RotationStep | None:
    """The last step that was begun; None if the authority is not being replaced."""
    if not files.next_file(authority, "crt").exists():
        return None
    return "trust" if files.next_file(authority, "key").exists() else "reissue"


def trust(files: AuthorityFiles, authority: AuthorityName, now: float) -> None:
    """Make the new authority, and let everybody trust both. Raises Conflict if the new one signs already."""
    step = last_step(files, authority)
    if step == "reissue":
        raise Conflict(f"the new authority {authority} signs already: `nodectl pki rotate {authority} remove` is next")
    new_certificate = files.next_file(authority, "crt")
    if step is None:
        certificate, key = signing.new_authority(files.signer(authority).name, now)
        write_private(files.next_file(authority, "key"), key)
        write_public(new_certificate, certificate)
    new = read_file(new_certificate)
    _write_trusted(files, authority, [*_others(files, authority, new), new])


def begin_to_sign(files: AuthorityFiles, authority: AuthorityName) -> None:
    """Let the new authority sign from now on. Raises Conflict if it is not trusted yet."""
    new_certificate, new_key = files.next_file(authority, "crt"), files.next_file(authority, "key")
    trusted = files.file(authority, "crt")
    if not new_certificate.exists():
        raise Conflict(f"there is no new authority {authority}: `nodectl pki rotate {authority} trust` is first")
    new = read_file(new_certificate)
    if not authorities_in(new) <= authorities_in(read_file(trusted)):
        raise Conflict(f"{trusted} does not hold the new authority: repeat `nodectl pki rotate {authority} trust`")
    if new_key.exists():
        signing.Signer.load(new, read_file(new_key))  # never replace a key by one that cannot be used
        replace_private(new_key, files.file(authority, "key"))
    # An older nodectl takes the first one as the one that signs.
    _write_trusted(files, authority, [new, *_others(files, authority, new)])
    files.write_list(authority)
    files.distribute()


def remove(files: AuthorityFiles, authority: AuthorityName, not_reissued: Sequence[str]) -> None:
    """Let nobody trust the old authority any more. Raises Conflict if certificates of it are in use."""
    step = last_step(files, authority)
    if step is None:
        return
    if step == "trust" or not_reissued:
        some = ", ".join(not_reissued[:_SHOWN_MAX]) + (", ..." if len(not_reissued) > _SHOWN_MAX else "")
        whose = f" of {some}" if not_reissued else ""
        raise Conflict(
            f"certificates{whose} are of the old authority: `nodectl pki rotate {authority} reissue` is next"
        )
    _write_trusted(files, authority, [read_file(files.next_file(authority, "crt"))])
    files.next_file(authority, "crt").unlink()


def _others(files: AuthorityFiles, authority: AuthorityName, new: bytes) -> list[bytes]:
    """The authorities in ca.crt without the new one."""
    return [item for item in signing.certificates_in(read_file(files.file(authority, "crt"))) if item != new]


def _write_trusted(files: AuthorityFiles, authority: AuthorityName, certificates: list[bytes]) -> None:
    target, content = files.file(authority, "crt"), b"".join(certificates)
    if read_file(target) != content:
        write_public(target, content)
    files.distribute()
