"""What is in etcd: the key layout, the models of the values, and the codec of journal entries. Pure.

Unknown fields are kept, a newer major version is refused with a clear line.
May import support and errors. Read `keys.py` first, then `models.py`.
"""
