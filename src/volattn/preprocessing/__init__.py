"""From volumes of any kind to slices that a network can take, and the store that keeps them."""
