"""A driver of one's own: keeps the names in the node's document in a hosts file, among the lines of others.

The document {"hosts": {"projector": "10.0.0.50"}} makes the line `10.0.0.50 projector # nodectl n1`.
Its one action, `find`, returns the names that an address has in the file: {"address": "10.0.0.50"}.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, IPvAnyAddress, TypeAdapter, ValidationError

from nodesdk import Actual, Context, DriverAction, DriverError, Settings, Spec, parse_settings
from nodesdk.helpers import write_atomic

HostName = Annotated[str, Field(pattern=r"^[A-Za-z0-9.-]+$")]
HOSTS = TypeAdapter(dict[HostName, IPvAnyAddress])


class HostsSettings(Settings):
    path: str = Field(
        default="/etc/hosts", min_length=1, pattern=r"^[^\x00]*$", description="absolute, or in the work directory"
    )


class HostsDriver:
    settle_s = 0.0

    def __init__(self, context: Context) -> None:
        self._context = context
        self._mark = f" # nodectl {context.node}"
        self._path: Path | None = None
        self._wanted: list[str] = []

    async def inspect(self) -> Actual:
        if self._path is None:  # this noded has not applied anything yet
            return Actual()
        ours, _theirs = self._lines(self._path)
        drift = None if ours == self._wanted else f"the lines of ours in {self._path} were altered"
        return Actual({"lines": len(ours)}, drift)

    async def apply(self, spec: Spec, previous: Spec | None) -> None:
        settings = parse_settings(HostsSettings, spec.settings)
        try:
            hosts = HOSTS.validate_python(spec.document.get("hosts", {}))
        except ValidationError as error:  # nothing has been changed yet, and only another document helps
            raise DriverError(f"document: {error.errors()[0]['msg']}", retryable=False) from None
        wanted = [f"{address} {name}{self._mark}" for name, address in sorted(hosts.items())]
        path = self._context.work_dir / settings.path
        ours, theirs = self._lines(path)
        if ours != wanted:
            try:
                write_atomic(path, "".join(f"{line}\n" for line in [*theirs, *wanted]).encode())
            except OSError as error:  # it may succeed later
                raise DriverError(f"cannot write {path}: {error.strerror}") from None
        self._path, self._wanted = path, wanted

    async def stop(self) -> None:
        self._path = None  # the lines stay: noded stops at every restart, and names are not to blink

    @property
    def actions(self) -> Mapping[str, DriverAction]:  # a driver without any has no such property
        return {"find": DriverAction(self._find, timeout_s=10)}

    async def _find(self, args: dict[str, Any]) -> dict[str, list[str]]:
        address = args.get("address")
        if self._path is None or not isinstance(address, str):
            raise DriverError("give an address to look for, once there is a file to look in")
        ours, theirs = self._lines(self._path)
        found = [line.split("#")[0].split() for line in [*theirs, *ours]]
        return {"names": [name for parts in found if parts[:1] == [address] for name in parts[1:]]}

    def _lines(self, path: Path) -> tuple[list[str], list[str]]:
        try:
            lines = path.read_text("utf-8").splitlines()
        except FileNotFoundError:
            lines = []
        except (OSError, UnicodeDecodeError) as error:
            raise DriverError(f"cannot read {path}: {error}") from None
        ours = [line for line in lines if line.endswith(self._mark)]
        return ours, [line for line in lines if not line.endswith(self._mark)]
