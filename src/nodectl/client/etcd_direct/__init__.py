"""The status and the configuration, read from etcd itself. Works without a running master.

May import connection. Read `store_status.py` first.
"""
