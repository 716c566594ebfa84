"""The library that masterd, noded and nodectl share: keys, models, etcd session, watches, leases, election."""

__version__ = "0.1.0"
