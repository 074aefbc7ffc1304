"""What is stored about batches, jobs, attempts and images, and under which names.

Pure data: nothing here opens a connection. The ledger keeps records in Redis, the bucket in S3.
"""
