"""Re-exports the built-in application of `nodesdk.scenes` for masterd's packages. Pure."""

from nodesdk.scenes import NODES, SCENES, BuiltinApp

__all__ = ["NODES", "SCENES", "BuiltinApp"]
