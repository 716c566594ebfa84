"""`nodectl host join`: makes this PC part of a cluster. docs/hosts.md has the steps and their interruptions."""

from __future__ import annotations

import contextlib
import shutil
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hostd.pc.definitions import NODED
from hostd.pc.host_file import HostFile, ManagerKind, load_host_file, save_host_file
from hostd.pc.identities import make_requests, write_certificates
from hostd.pc.layout import Layout
from hostd.setup.preflight import check_ports, check_space, former_host_file, own_address_towards
from hostd.setup.steps import Steps
from hostd.setup.waiting import start_hostd, wait_for_services
from hostd.signing.client import SignerClient, check_clock
from hostd.signing.joins import content_of
from hostd.signing.messages import JoinAnswer, JoinRequest
from hostd.signing.renewal import Renewal
from nodestore import __version__
from nodestore.errors import Conflict, Denied, Invalid, NodectlError, Unavailable
from nodestore.schema.host_models import HostKind, HostPorts
from nodestore.schema.keys import check_name
from nodestore.schema.models import HostActual
from nodestore.support.tokens import JoinTokenText, parse_join_token
from nodestore.support.values import parse_address


@dataclass(frozen=True, slots=True, kw_only=True)
class JoinWish:
    """What this PC is to be. signer: host or host:port. address: None: the one from which the signer is reached."""

    signer: str
    token: str
    host: str
    address: str | None
    kind: HostKind
    manager: ManagerKind
    etcd: Path | None
    hostd_options: tuple[str, ...] = ()
    ports: HostPorts = field(default_factory=HostPorts)


def checked_join_token(text: str) -> JoinTokenText:
    """The parts of a token. Raises Invalid if some are missing."""
    found = parse_join_token(text.strip())
    if found is None:
        raise Invalid("the token is not complete: it is NCT1, three dots, and 123 characters between and behind them")
    return found


async def join(layout: Layout, wish: JoinWish, steps: Steps) -> HostActual:
    """Make this PC part of a cluster, or finish an earlier run. Returns what hostd found at its first passes."""
    check_name("host", wish.host)
    text = checked_join_token(wish.token)
    signer = _signer_address(wish.signer, wish.ports.host)
    address = wish.address or own_address_towards(signer.rpartition(":")[0].strip("[]"))
    host = load_host_file(layout.host_file)
    if host is None:
        host = await _become_part(layout, wish, steps, signer, address, text.authority_hash)
    else:
        wanted = _host_file(wish, address, None)
        former_host_file(layout, wanted.model_copy(update={"cluster": host.cluster}))
        _check_same_cluster(layout, host, text.authority_hash)
        await _check_not_removed(layout, host)
        steps.report(f"this PC is {host.host} of the cluster {host.cluster} already: going on")
    await steps.run("hostd", "hostd runs", start_hostd(layout, host))
    return await wait_for_services(layout, (NODED,), steps.report)


async def _become_part(
    layout: Layout, wish: JoinWish, steps: Steps, signer: str, address: str, wanted_hash: str
) -> HostFile:
    check_ports(address, wish.kind, wish.ports, signer=False)
    check_space((layout.etc, layout.var))
    client = SignerClient(signer)
    found = await steps.run(
        "authority",
        f"the signer at {signer} has the authority that the token names",
        client.fetch_authority(wanted_hash),
    )
    check_clock(found.time)
    with _removed_if_refused(layout):
        layout.make_directories(data=False)
        requests = make_requests(layout, wish.kind, wish.host)
        steps.report("made the keys of this PC")
        request = JoinRequest(
            token=wish.token.strip(), host=wish.host, address=address, kind=wish.kind, ports=wish.ports,
            requests={kind: text.decode() for kind, text in requests.items()}, version=__version__,
        )  # fmt: skip
        answer = await steps.run("signed", "the signer has let this PC in", client.join(found.authority, request))
    # Nothing is removed from here on: the cluster knows this PC by its keys, and a repeat needs them.
    layout.make_directories(data=True)
    received = {
        kind: {name: content_of(text) for name, text in files.items()} for kind, files in answer.certificates.items()
    }
    write_certificates(layout, received)
    await steps.run("certificates", "wrote the certificates of this PC", _nothing())
    host = _host_file(wish, address, answer)
    save_host_file(layout.host_file, host)
    await steps.run("host file", f"this PC is {host.host} of the cluster {host.cluster}", _nothing())
    return host


async def _nothing() -> None:
    """A step that was done already, for the place after it."""


def _host_file(wish: JoinWish, address: str, answer: JoinAnswer | None) -> HostFile:
    return HostFile(
        host=wish.host,
        cluster="" if answer is None else check_name("cluster", answer.cluster),
        address=address,
        kind=wish.kind,
        ports=wish.ports,
        manager=wish.manager,
        python=sys.executable,
        etcd="" if wish.etcd is None else str(wish.etcd),
        signers=() if answer is None else answer.signers,
        endpoints=() if answer is None else answer.endpoints,
        hostd_options=wish.hostd_options,
        members_wanted=3 if answer is None else answer.members_wanted,
    )


def _check_same_cluster(layout: Layout, host: HostFile, wanted_hash: str) -> None:
    from hostd.signing.client import authority_with_hash

    path = layout.tls("hostd") / "ca.crt"
    try:
        is_same = authority_with_hash(path.read_text("ascii"), wanted_hash) != ""
    except OSError as error:
        raise NodectlError(f"cannot read {path}: {error.strerror or error}") from None
    if not is_same:
        raise Conflict(
            f"this PC belongs to another cluster, {host.cluster}, as {host.host}. To begin anew: nodectl host uninstall"
        )


async def _check_not_removed(layout: Layout, host: HostFile) -> None:
    """Raise Conflict if the cluster has forgotten this PC. While no signer answers, it is not known."""
    try:
        await Renewal(layout, host).renew()
    except Unavailable:
        return
    except Denied:
        raise Conflict(
            f"{host.host} was removed from the cluster {host.cluster}: run `nodectl host uninstall`, then join again"
        ) from None


def _signer_address(text: str, port: int) -> str:
    try:
        return str(parse_address(text if _has_port(text) else f"{text}:{port}"))
    except (Invalid, ValueError):
        raise Invalid(f"{text!r} is not an address such as 10.0.0.1 or 10.0.0.1:{port}") from None


def _has_port(text: str) -> bool:
    return text.rpartition(":")[2].isdigit() and (text.count(":") == 1 or text.startswith("["))


@contextlib.contextmanager
def _removed_if_refused(layout: Layout) -> Iterator[None]:
    """Remove the keys that this run has made, if the signer refuses. After any other error they stay.

    The cluster may know this PC by these keys then. Without them, its name would be taken until an operator removes it.
    """
    tls = layout.etc / "tls"
    existed = tls.exists()
    made = [path for path in (layout.root, *_between(layout.root, layout.etc)) if not path.exists()]
    try:
        yield
    except (Invalid, Denied, Conflict):
        if not existed:
            shutil.rmtree(tls, ignore_errors=True)
            for path in reversed(made):
                with contextlib.suppress(OSError):  # something else is in it
                    path.rmdir()
        raise


def _between(root: Path, path: Path) -> list[Path]:
    """The directories below `root` down to `path`."""
    return [item for item in (*reversed(path.parents), path) if root in item.parents]
