"""Arrays in, pictures out; no PyTorch."""
