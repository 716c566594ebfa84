"""How the client reaches a master and stays with the leader.

Discovery, the watch of the leader, HTTP, retries with the same command id, server-sent events, and the pipeline that
coalesces commands.
May import nothing else of the client. Read `requests.py` first, then `pipeline.py`.
"""
