"""The status and the configuration as read from etcd itself, while no master may be running.

May import connection. Read `store_status.py` first.
"""
