"""What the client does in etcd itself, while no master may be running: the configuration, the pause, the status.

May import connection. Read `cluster_store.py` first.
"""
