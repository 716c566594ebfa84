"""The public methods of `Client`, by subject; `client.py` joins them into one class.

May import connection and etcd_direct. Read `wall.py` first: the methods of the built-in application.
"""
