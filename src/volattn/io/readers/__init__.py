"""File formats of images and label maps."""
