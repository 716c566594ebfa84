"""The built-in application for masterd's packages; see `nodesdk.scenes`. Pure."""

from nodesdk.scenes import NODES, SCENES, BuiltinApp

__all__ = ["NODES", "SCENES", "BuiltinApp"]
