"""Generates the etcd messages from our own etcd.proto when the project is built or installed in place."""

from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

PACKAGE = "src/nodestore/etcd/pb"


class GenerateMessages(BuildHookInterface):  # type: ignore[type-arg]
    """Runs protoc; a failure ends the build with protoc's own words."""

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        from grpc_tools import protoc

        folder = Path(self.root) / PACKAGE
        code = protoc.main(
            ["protoc", f"-I{folder}", f"--python_out={folder}", f"--pyi_out={folder}", str(folder / "etcd.proto")]
        )
        if code != 0:
            raise RuntimeError(f"protoc failed on {folder / 'etcd.proto'} with exit code {code}")
        build_data["artifacts"] += [f"{PACKAGE}/etcd_pb2.py", f"{PACKAGE}/etcd_pb2.pyi"]
