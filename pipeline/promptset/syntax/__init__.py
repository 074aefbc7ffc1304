"""Prompt syntaxes: what `(a:1.3)`, `BREAK` or `<lora:film:0.8>` means to the program that a prompt was written for.

Here belong the readers of A1111's, ComfyUI's and compel's syntaxes, the names of LoRAs and embeddings in them, escapes,
and how syntax is noticed that is not read. Embeddings are not computed here: nothing of torch, tokenizers or files.
"""
