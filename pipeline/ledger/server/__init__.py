"""The Redis server under the ledger: how to connect to it, whether it keeps what it is told, what a user of it may do.

Does not belong here: records (the folder above).
"""
