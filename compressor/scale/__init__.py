"""Scale: decide width, depth and input resolution before training.

A scaler answers `scale(arguments, input_size) -> (arguments, input_size)`: the builder's arguments
(never edited in place) and (C, H, W).
"""
