"""hostd, the agent for a PC: runs etcd, masterd and noded on it as the cluster wants, and lets further PCs join.

`nodectl host` uses `setup` to begin a cluster, to join one and to leave it. docs/hosts.md explains the protocol.
From top to bottom: `setup` (the commands), `agent` (the loop), `placement` and `signing` (on a signer), `pc` (what is
on this PC). Read `agent/plan.py` and `placement/decide.py` first: they decide, without I/O.
"""
