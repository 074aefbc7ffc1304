"""Pictures that other programs made, read as rows: the texts in their files, and one module for each program's form.

A file is never trusted: nothing is decoded but its texts, sizes are bounded before anything is decompressed or parsed,
and what is not understood is refused with its name. Files of our own are `pipeline.outputs.extract`'s.
"""
