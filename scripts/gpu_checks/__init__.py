"""The sections of `gpu_check.py`: each a generator of rows, run in a process of its own."""
