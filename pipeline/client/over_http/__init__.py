"""The Python client's classes, answered by `tessera serve`: `Client` makes them where its connection leads there.

Does not belong here: requests, and what stands in the place of ledger and bucket (pipeline.client.remote).
"""
