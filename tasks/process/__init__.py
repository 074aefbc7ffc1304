"""What each worker process has: its connections, its view of running attempts, its metrics."""
