"""Slabs: 2.5D images and the bags that they make. PyTorch begins here."""
