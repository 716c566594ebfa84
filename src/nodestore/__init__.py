"""The contract that masterd, noded and nodectl share: keys, models, etcd session, watch, lease, election."""

__version__ = "0.1.0"
