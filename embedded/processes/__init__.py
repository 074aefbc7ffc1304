"""Child processes: how they are started, found, restarted, and ended with their parent."""
