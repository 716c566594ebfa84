"""Selects the cluster: from options, the environment, or a named cluster of the configuration file.

- An option takes precedence over everything else.
- With `--cluster-name`, all other settings come from that entry of the file. The environment is ignored.
- Otherwise the environment applies. If it names no endpoints either, the file's default entry supplies what is missing.

So settings of different clusters never mix.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nodestore.errors import Invalid
from nodestore.support.password_file import read_password
from nodestore.support.values import check_credentials

if TYPE_CHECKING:
    from nodectl.inventory.yaml_source import YamlSource

REQUEST_TIMEOUT_S = 10.0
LOCAL_ETCD = "127.0.0.1:2379"


@dataclass(frozen=True, slots=True, kw_only=True)
class ClusterSettings:
    """Endpoints of a cluster, and credentials. Paths are absolute or relative to the working directory."""

    endpoints: str | None = None
    cluster: str | None = None
    user: str | None = None
    password_file: Path | None = None
    token_file: Path | None = None
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    crl: Path | None = None

    def with_defaults(self, other: ClusterSettings) -> ClusterSettings:
        """These settings, completed by those of `other` where they are None."""
        missing = {item.name: getattr(other, item.name) for item in fields(self) if getattr(self, item.name) is None}
        return replace(self, **missing)

    def password(self) -> str | None:
        """Read the password from `password_file`; None if that is not set. Raises Invalid if the file is unusable."""
        return None if self.password_file is None else read_password(self.password_file)


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The global options as given. They are resolved and checked when a command needs a cluster."""

    given: ClusterSettings = ClusterSettings()
    cluster_name: str | None = None
    config: Path | None = None
    request_timeout_s: float = REQUEST_TIMEOUT_S

    def cluster_names(self) -> tuple[str, ...]:
        """Names that `--cluster-name` accepts. Raises Invalid if the configuration file is not valid."""
        return _ConfigFile.read(self.config or config_path(os.environ), must_exist=False).names

    def login_file(self) -> Path:
        """The file of the token for the selected cluster. Raises Invalid as `resolve` does."""
        return login_file(self.resolve(), self.config or config_path(os.environ))

    def resolve(self, environ: Mapping[str, str] | None = None) -> ClusterSettings:
        """The settings in force. Raises Invalid if they name no cluster, or contradict one another."""
        environ = os.environ if environ is None else environ
        path = self.config or config_path(environ)
        if self.cluster_name is not None:
            settings = self.given.with_defaults(_ConfigFile.read(path, must_exist=True).named(self.cluster_name))
        else:
            settings = self.given.with_defaults(from_environment(environ))
            if settings.endpoints is None:
                settings = settings.with_defaults(_ConfigFile.read(path, must_exist=self.config is not None).default())
            if settings.endpoints is None and settings.cluster is not None:
                settings = replace(settings, endpoints=LOCAL_ETCD)  # the default of masterd and noded too
        if settings.endpoints is None:
            raise Invalid(_no_cluster(path, environ))
        return _with_login(_checked(settings), path)


def login_file(settings: ClusterSettings, config: Path) -> Path:
    """The file in which `nodectl login` keeps the token for the cluster of these settings.

    Its name depends on the endpoints, so a token is never sent to another cluster.
    """
    import hashlib  # here: it loads OpenSSL, which `nodectl --help` does not need

    place = f"{settings.cluster or ''}@{settings.endpoints or ''}"
    return config.parent / "tokens" / f"{hashlib.sha256(place.encode()).hexdigest()[:16]}.token"


def _with_login(settings: ClusterSettings, config: Path) -> ClusterSettings:
    """The settings, completed by the token of `nodectl login`, if there is one."""
    if settings.token_file is not None or not (found := login_file(settings, config)).is_file():
        return settings
    return replace(settings, token_file=found)


def config_path(environ: Mapping[str, str]) -> Path:
    """Path of the configuration file: NODECTL_CONFIG, else the user's, else that of this PC if the user may read it."""
    if given := environ.get("NODECTL_CONFIG"):
        return Path(given)
    if sys.platform == "win32":
        base = Path(environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    else:
        base = Path(environ.get("XDG_CONFIG_HOME") or Path.home() / ".config")
    own, of_pc = base / "nodectl" / "config.yaml", pc_config_path(environ)
    return of_pc if not own.exists() and os.access(of_pc, os.R_OK) else own


def pc_config_path(environ: Mapping[str, str]) -> Path:
    """Path of the configuration file that `nodectl host init` writes, for the administrators of that PC."""
    if sys.platform == "win32":
        root = Path(environ.get("NODECTL_ROOT") or Path(environ.get("PROGRAMDATA") or r"C:\ProgramData") / "nodectl")
        return root / "etc" / "nodectl.yaml"
    return Path(environ.get("NODECTL_ROOT") or "/") / "etc" / "nodectl" / "nodectl.yaml"


def from_environment(environ: Mapping[str, str]) -> ClusterSettings:
    """Read NODECTL_ENDPOINTS, NODECTL_CLUSTER and so on. masterd and noded use the same names."""
    values: dict[str, Any] = {}
    for item in fields(ClusterSettings):
        text = environ.get(f"NODECTL_{item.name.upper()}")
        if text:
            values[item.name] = Path(text) if item.name in _PATHS else text
    return ClusterSettings(**values)


_PATHS = {"password_file", "token_file", "ca", "cert", "key", "crl"}


def _no_cluster(path: Path, environ: Mapping[str, str]) -> str:
    """Why no cluster is selected. A PC of a cluster knows more than what to do in general."""
    of_pc = pc_config_path(environ)
    if of_pc.exists() and not os.access(of_pc, os.R_OK):
        return f"no cluster is selected: this user may not read {of_pc}, which has the cluster of this PC: use sudo"
    general = f"no cluster is selected: give --endpoints, set NODECTL_ENDPOINTS, or define clusters in {path}"
    if of_pc.with_name("host.json").exists() and not of_pc.exists():
        return f"{general}. This PC has joined a cluster: on the first PC of that cluster, `sudo nodectl` needs none"
    return general


def _checked(settings: ClusterSettings) -> ClusterSettings:
    from nodectl.endpoints import parse_endpoints

    assert settings.endpoints is not None
    if parse_endpoints(settings.endpoints).etcd and settings.cluster is None:
        raise Invalid("etcd endpoints also need the cluster's name: give --cluster or set NODECTL_CLUSTER")
    # A certificate without --ca is allowed: masters at https:// are then verified by the system's authorities.
    check_credentials(user=settings.user, password_file=settings.password_file, cert=settings.cert, key=settings.key)
    return settings


class _ConfigFile:
    """The configuration file: `clusters` by name, and the name of the `default` one."""

    def __init__(self, source: YamlSource | None, path: Path) -> None:
        self._source = source
        self._path = path
        self._default: str | None = None
        self._clusters: dict[str, ClusterSettings] = {}
        if source is not None:
            self._parse(source)

    @classmethod
    def read(cls, path: Path, *, must_exist: bool) -> _ConfigFile:
        if not must_exist and not path.exists():
            return cls(None, path)
        from nodectl.inventory.yaml_source import YamlSource

        return cls(YamlSource.read(path), path)

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._clusters)

    def named(self, name: str) -> ClusterSettings:
        if name not in self._clusters:
            known = ", ".join(self._clusters) or "none"
            raise Invalid(f"{self._path} defines no cluster {name!r}; it defines: {known}")
        return self._clusters[name]

    def default(self) -> ClusterSettings:
        if self._default is not None:
            return self.named(self._default)
        if len(self._clusters) == 1:
            return next(iter(self._clusters.values()))
        if self._clusters:
            known = ", ".join(self._clusters)
            raise Invalid(
                f"no cluster is selected: {self._path} defines {known}; give --cluster-name, or set `default:` there"
            )
        return ClusterSettings()

    def _parse(self, source: YamlSource) -> None:
        top = source.value if isinstance(source.value, dict) else {}
        if source.value is not None and not isinstance(source.value, dict):
            source.add_problem((), "expected fields such as `clusters:`")
        for name in top:
            if name not in {"clusters", "default"}:
                source.add_unknown_problem((name,), ("clusters", "default"), "this field")
        clusters = top.get("clusters")
        for name, entry in (clusters if isinstance(clusters, dict) else {}).items():
            self._clusters[name] = self._entry(source, name, entry)
        default = top.get("default")
        if default is not None and default not in self._clusters:
            source.add_problem(("default",), f"there is no cluster {default!r}")
        source.raise_problems()
        self._default = default

    def _entry(self, source: YamlSource, name: str, entry: Any) -> ClusterSettings:
        known = [item.name for item in fields(ClusterSettings)]
        values: dict[str, Any] = {}
        for key, value in (entry if isinstance(entry, dict) else {}).items():
            where = ("clusters", name, key)
            if key not in known:
                source.add_unknown_problem(where, known, "this field")
            elif key == "endpoints" and isinstance(value, list) and all(isinstance(item, str) for item in value):
                values[key] = ",".join(value)
            elif not isinstance(value, str):
                source.add_problem(where, f"expected text, got {value!r}")
            else:
                # Relative to the configuration file, because the working directory may be anywhere.
                values[key] = self._path.parent / Path(value).expanduser() if key in _PATHS else value
        if "endpoints" not in values:
            source.add_problem(("clusters", name), "needs `endpoints:`")
        return ClusterSettings(**values)
