"""`nodectl etcd config`: the configuration file of an etcd member, from one commented template.

May import nothing else of nodectl. Read `config_file.py` first, beside `etcd_config.yaml.template`.
"""
