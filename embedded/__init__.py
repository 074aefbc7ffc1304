"""The stack on one machine: real Redis and S3 from wheels, and a local node that runs attempts as a kubelet would.

Belongs here: starting, watching and stopping processes on one machine. Does not belong here: what workers and pods
do, which is the same as in a cluster.
"""
