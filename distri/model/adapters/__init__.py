"""What LoRA files and their kin do to a model: the formulas, and which of a file's tensors belongs to which weight.

Nothing here changes a model; `distri.model.adapters.lora` fuses what is found here and takes it out again.
"""
