"""Redis and S3 on this machine: where they listen, how each is started, and when it is ready."""
