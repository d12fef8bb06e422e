"""Many conversations answered at once by bases and their tuned adapters, in a process of its own.

`wire` and `client` are what the service uses; they import no torch. Everything else lives in the
process that `client` starts.
"""
