"""Redis and S3 on this machine: how each is started, and when it is ready."""
