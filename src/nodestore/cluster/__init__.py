"""Operations on the keys of one cluster: the election, the configuration, and views of members and masters.

A rule about a key that two programs follow is defined once, in this package.
May import etcd, schema and support. Read `election.py` first.
"""
