"""How a node is known to the cluster: its claim on the name, its status, and following its keys in etcd.

May import nothing else of noded. Read `claim.py` first.
"""
