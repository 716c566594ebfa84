"""The schema of the store in etcd: key layout, models of the values, codec of journal entries. Pure.

Models keep unknown fields, and refuse a newer major version with an error that names both versions.
May import support and errors. Read `keys.py` first, then `models.py`.
"""
