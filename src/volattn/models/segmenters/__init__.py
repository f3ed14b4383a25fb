"""Segmenters: what labels every pixel of a slab."""
