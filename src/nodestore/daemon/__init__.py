"""Start and end of the two daemons, masterd and noded: options, signals, exit codes.

May import etcd, schema and support. Read `program.py` first.
"""
