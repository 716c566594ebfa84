"""Generates the configuration file of an etcd member from a commented template (`nodectl etcd config`).

May import nothing else of nodectl. Read `config_file.py` first, together with `etcd_config.yaml.template`.
"""
