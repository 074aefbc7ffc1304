"""What a worker process has of its own: its connections, its view of what runs, its metrics."""
