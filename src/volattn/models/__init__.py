"""Detectors from encode, attend and detect: they see tensors, not patients."""
