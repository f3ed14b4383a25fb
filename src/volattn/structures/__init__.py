"""Geometry, volumes, boxes, components and lesions: numpy only."""
