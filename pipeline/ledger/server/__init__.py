"""The Redis server under the ledger: how to connect, whether it keeps its data, what each user may do.

Does not belong here: records (the folder above).
"""
