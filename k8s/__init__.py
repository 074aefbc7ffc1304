"""The launcher for a cluster: an attempt becomes a Kubernetes Job, and what the cluster says becomes its outcome.

Belongs here: how a Job looks, the one module that talks to a cluster, the classification of what became of a pod.
Does not belong here: what to do about it (tasks decides), what is rendered (pipeline), how (distri).
"""
