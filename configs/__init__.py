"""One folder per config group; installed as `compressor.configs`."""
