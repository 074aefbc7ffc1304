"""The pod: what torchrun starts on every rank (`-m distri.run`). The only part of the engine that knows pipeline.

Belongs here: the pod claim, going through a shard, commits in the background, the report at the end. Does not belong
here: how an image is made (the rest of distri), what becomes of the attempt (tasks).
"""
