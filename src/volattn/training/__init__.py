"""Training: recipes as data, our own loop on accelerate, and the run folder."""
