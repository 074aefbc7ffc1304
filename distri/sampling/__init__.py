"""From noise to pixels: the denoising loop and the decode."""
