"""What the promises rest on, pure: what the processes of a host share, and the protocol between hosts.

Nothing here knows a clock, a socket, a thread, a lock, a file, randomness or a logger: time, memory and identity are
arguments, so the code that is simulated is the code that runs.
"""
