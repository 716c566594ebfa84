"""The session with etcd: calls, hedging, login, leases, watches and maintenance, over gRPC.

A session uses one member until that member fails, then the next one. A watch loses no event at such a switch.
A lease counts as lost once its TTL has passed since its last answered keepalive was sent.
Only this package imports grpc.
May import schema, support and errors. Read `session.py` first, then `hedging.py`, `watch.py` and `lease.py`.
`maintenance.py` administers etcd through a session.
"""
