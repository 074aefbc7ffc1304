"""The engine: SDXL split over the ranks of a device mesh, run by torchrun inside the pod.

Here belong mesh, patches, exchange, layers, UNet, VAE and sampler; it stands alone and runs on any diffusers SDXL model.
Here belong no queue, no cluster, no bucket: only `distri.run`, the pod's entry point, knows `pipeline`.
"""
