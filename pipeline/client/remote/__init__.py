"""A deployment over its HTTP API: requests, and what stands in the place of ledger and bucket.

Does not belong here: the classes that users meet (pipeline.client.over_http) and the API itself (pipeline.service).
"""
