"""An attempt to a Kubernetes batch/v1 Job and back.

Belongs here: names, manifests, the one module that talks to a cluster, the classification of what became of a pod.
Does not belong here: what to do about it (tasks decides), what is rendered (pipeline), how (distri).
"""
