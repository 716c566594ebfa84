"""The session with etcd: calls, hedging, login, leases, watches and maintenance, over gRPC.

One session sticks to one member and moves on when that fails; a watch loses nothing across moves; a lease is lost when
its TTL has passed since the last keepalive that was answered was sent. Only this package imports grpc.
May import schema, support and errors. Read `session.py` first, then `watch.py` and `lease.py`.
"""
