"""Generates the configuration file of one etcd member from the commented template next to this module.

Settings that are the same for all members come from `nodestore.etcd.member_defaults`. The development cluster and the
tests start their members with the same ones.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath, PurePosixPath, PureWindowsPath
from string import Template

from nodectl.etcd_setup.members import ip_of, parse_listen, survives
from nodestore.errors import Invalid
from nodestore.etcd.member_defaults import MemberConfig
from nodestore.schema.keys import check_name

TOKEN = MemberConfig.cluster_token
CLIENT_PORT = 2379
PEER_PORT = 2380
DATA_ROOT = PurePosixPath("/var/lib/etcd")
TLS_DIR = PurePosixPath("/etc/etcd/tls")
_TEMPLATE = Path(__file__).with_name("etcd_config.yaml.template")
_LOOPBACK = "127.0.0.1"
_REVOCATION_LISTS = {"client-crl-file": "ca.crl", "peer-crl-file": "peer-ca.crl"}
_ENVIRONMENT_HEADER = """\
# etcd member {name} as variables, for EnvironmentFile= of its service. Start etcd without --config-file.
# Written by `nodectl etcd config --environment`. Without --environment it explains the settings."""
_SAFE_IN_SHELL = re.compile(r"[A-Za-z0-9/._:,=@%+\[\]-]*")
_PLAIN = re.compile(r"[A-Za-z/](?:[A-Za-z0-9/._:-]*[A-Za-z0-9/._-])")
_YAML_WORDS = frozenset({"true", "false", "yes", "no", "on", "off", "null"})


class _SettingsTemplate(Template):
    """A template whose placeholders ${...} are names of etcd's settings, which may contain hyphens."""

    idpattern = "[a-z]+(?:-[a-z]+)*"


@dataclass(frozen=True, slots=True)
class MemberPlan:
    """What an operator chooses for one member. `members`, from `parse_members`, maps names to hosts.

    `data_dir` defaults to /var/lib/etcd/TOKEN, `listen` to the member's own address. `tls_dir` turns TLS on and holds
    ca.crt, NAME.crt and NAME.key. `own_peer_certs`: the members use peer-ca.crt, NAME-peer.crt and NAME-peer.key among
    themselves. `existing`: the member joins a running cluster.
    """

    name: str
    members: Mapping[str, str]
    token: str = TOKEN
    data_dir: str | None = None
    listen: str | None = None
    client_port: int = CLIENT_PORT
    peer_port: int = PEER_PORT
    tls_dir: str | None = None
    existing: bool = False
    own_peer_certs: bool = False

    def render(self) -> str:
        """The text of the file. Raises Invalid if a value is wrong."""
        config, tls_dir = self._config(), self._tls_dir()
        own = {name: _scalar(config[name]) for name in ("name", "data-dir", "initial-cluster-token")}
        template = _SettingsTemplate(_TEMPLATE.read_text(encoding="utf-8"))
        return template.substitute(config, **own, **self._header(), **self._tls(tls_dir))

    def render_environment(self) -> str:
        """The same settings as variables, with the revocation lists that `nodectl pki` writes. Raises Invalid.

        etcd reads revocation lists from its command line and its environment only: in a configuration file it ignores
        them, and with one it ignores command line and environment.
        """
        lines = [f"{name}={_shell(value)}" for name, value in self.environment().items()]
        return "\n".join((_ENVIRONMENT_HEADER.format(name=self.name), *lines, ""))

    def environment(self) -> dict[str, str]:
        """etcd's variables. Raises Invalid."""
        settings, tls_dir = self._config(), self._tls_dir()
        if self.tls_dir is not None:
            settings |= {name: str(tls_dir / file) for name, file in self._tls_files().items()}
            settings |= {"client-cert-auth": "true", "peer-client-cert-auth": "true"}
        if self.own_peer_certs:
            settings |= {name: str(tls_dir / file) for name, file in _REVOCATION_LISTS.items()}
        return {f"ETCD_{name.upper().replace('-', '_')}": value for name, value in settings.items()}

    def _tls_dir(self) -> PurePath:
        if self.own_peer_certs and self.tls_dir is None:
            raise Invalid("--peer-certs needs --tls-dir: without it there is no TLS")
        return TLS_DIR if self.tls_dir is None else _absolute(self.tls_dir, "--tls-dir")

    def _config(self) -> dict[str, str]:
        """All settings by their names in etcd."""
        if self.name not in self.members:
            raise Invalid(f"--name {self.name!r} is not among the members: {', '.join(self.members)}")
        if self.existing and len(self.members) == 1:
            raise Invalid(f"--existing: {self.name} joins other members, so each of them needs a --member too")
        if self.client_port == self.peer_port:
            raise Invalid(f"--client-port and --peer-port are both {self.peer_port}")
        check_name("cluster-token", self.token)
        data_dir = DATA_ROOT / self.token if self.data_dir is None else _absolute(self.data_dir, "--data-dir")
        listen = self._listen_host()
        return MemberConfig(
            name=self.name,
            data_dir=data_dir,
            client_url=",".join(self._url(host, self.client_port) for host in _with_loopback(listen)),
            advertised_client_url=self._url(self.members[self.name], self.client_port),
            peer_url=self._url(listen, self.peer_port),
            advertised_peer_url=self._url(self.members[self.name], self.peer_port),
            initial_cluster={name: self._url(host, self.peer_port) for name, host in self.members.items()},
            cluster_token=self.token,
            existing=self.existing,
        ).flags()

    def _listen_host(self) -> str:
        if self.listen is not None:
            return parse_listen(self.listen)
        host = self.members[self.name]
        # etcd does not listen on a host name, because its address may change.
        if ip_of(host) is None:
            raise Invalid(f"--listen is missing: etcd listens on an IP address only, and {self.name} is at {host}")
        return host

    def _url(self, host: str, port: int) -> str:
        return f"{'http' if self.tls_dir is None else 'https'}://{host}:{port}"

    def _tls(self, directory: PurePath) -> dict[str, str]:
        """Values of the template's last section. Without TLS, the value of `tls` comments out its lines."""
        values = {setting: _scalar(str(directory / file)) for setting, file in self._tls_files().items()}
        return {"tls": "# " if self.tls_dir is None else "", **values}

    def _tls_files(self) -> dict[str, str]:
        peer, authority = (f"{self.name}-peer", "peer-ca.crt") if self.own_peer_certs else (self.name, "ca.crt")
        return {
            "cert-file": f"{self.name}.crt", "key-file": f"{self.name}.key", "trusted-ca-file": "ca.crt",
            "peer-cert-file": f"{peer}.crt", "peer-key-file": f"{peer}.key", "peer-trusted-ca-file": authority,
        }  # fmt: skip

    def _header(self) -> dict[str, str]:
        count, may_fail = len(self.members), survives(len(self.members))
        lost = "no failure" if may_fail == 0 else f"the loss of {may_fail} member{'s' if may_fail > 1 else ''}"
        return {"count": str(count), "address": self.members[self.name], "survives": lost}


def _with_loopback(host: str) -> list[str]:
    """Hosts on which to serve clients: `host`, and 127.0.0.1 for programs on the member's PC."""
    ip = ip_of(host)
    if ip is not None and ip.is_unspecified:
        return [host]
    return list(dict.fromkeys((host, _LOOPBACK)))


def _absolute(text: str, option: str) -> PurePath:
    """Parse an absolute path of Linux or Windows. Either is valid here, because the file may be for another PC."""
    windows = PureWindowsPath(text)
    absolute = windows.drive and windows.root
    path: PurePath = PurePosixPath(windows.as_posix()) if absolute else PurePosixPath(text)
    if not (absolute or path.is_absolute()) or not text.isprintable():
        raise Invalid(f"{option}: {text!r} is not an absolute path such as {DATA_ROOT} or C:/etcd/data")
    return path


def _scalar(text: str) -> str:
    """Format `text` as a YAML scalar, without quotes only if every YAML parser reads it as text."""
    if _PLAIN.fullmatch(text) and text.lower() not in _YAML_WORDS:
        return text
    return json.dumps(text, ensure_ascii=False)


def _shell(text: str) -> str:
    """The value of a variable, as systemd and shells read it."""
    if _SAFE_IN_SHELL.fullmatch(text):
        return text
    return '"' + re.sub(r'([\\"$`])', r"\\\1", text) + '"'
