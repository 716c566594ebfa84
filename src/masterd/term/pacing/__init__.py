"""How much a leader commits at once, how much it lets wait, and how much it gives etcd to keep in memory.

`batch_pace` and `log_credit` are pure; `log_turnover` applies the latter. They import nothing else of masterd.
"""
