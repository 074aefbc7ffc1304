"""The engine: SDXL split over the ranks of a device mesh, run by torchrun inside the pod.

Here belong mesh, patches, exchange, layers, UNet, VAE and sampler; they stand alone and run on any diffusers SDXL.
Here belong no queue, no cluster, no bucket: only `distri.run`, the pod's entry point, knows `pipeline`.
"""
