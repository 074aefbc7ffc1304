"""Objects in S3: the one client that talks to it, the commit of an image, image files and what travels in them.

Does not belong here: Redis (ledger).
"""
