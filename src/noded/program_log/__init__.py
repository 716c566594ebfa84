"""Serves the log of the program that the node runs to the leading masterd, over a connection that noded opens.

`log_files` reads pieces of the files, `log_reader` waits for new lines, `websocket` is the transport, and `master_link`
keeps the connection. No part of it can end noded or hold up what noded drives. Read `master_link.py` first.
"""
