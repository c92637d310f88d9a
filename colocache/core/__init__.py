"""The protocol, pure: bytes and instants in; messages, deadlines and outcomes out.

Nothing here knows a clock, a socket, a thread, randomness or a logger: time and identity are arguments, so the code
that is simulated is the code that runs. `peer.Peer` composes the rest.
"""
