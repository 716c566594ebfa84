"""What the two daemons, masterd and noded, share at their start and end: options, signals, exit codes.

May import etcd, schema and support. Read `program.py` first.
"""
