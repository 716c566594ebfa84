"""What the keys of one cluster mean together: the election, the configuration, members and masters as people see them.

Each rule about a key that two programs follow has its one home here.
May import etcd, schema and support. Read `election.py` first.
"""
