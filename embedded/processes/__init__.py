"""Child processes: started, marked as ours, watched, ended with their parent."""
