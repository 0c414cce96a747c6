"""Published experiments, repeated here: their settings as data, and functions that run them."""
