"""The model as it is loaded: weights, LoRAs, text encoders, schedulers, and what one image asks of them."""
