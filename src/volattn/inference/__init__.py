"""From a CT to a scored lesion mask: the stream, the way back to the input's grid, and what is written."""
