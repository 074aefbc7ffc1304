"""What makes the engine's figures: exactness, arithmetic, traffic and speed. Run `python -m benchmarks.engine`."""
