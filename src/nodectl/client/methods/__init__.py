"""The public methods of `Client`, one module for each subject; `client.py` joins them into one class.

May import connection and etcd_direct. Read `application.py` first: the methods of the built-in application.
"""
