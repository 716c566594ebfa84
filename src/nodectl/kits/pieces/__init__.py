"""The pieces of a kit: Python, wheels, etcd, launchers. Each module puts one piece into the kit's folder."""
