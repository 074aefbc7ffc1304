"""The gallery of a batch: a page's HTML, style and script are files here, and `pages` fills them in.

Does not belong here: where the pages go (the bucket: tasks.control.finalize; a folder: pipeline.outputs.download).
"""
