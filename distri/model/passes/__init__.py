"""The passes that render a large picture, their sizes, seeds and noise."""
