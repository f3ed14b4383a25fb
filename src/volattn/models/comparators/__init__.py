"""Networks that the paper compares with, as published."""
