"""Several simulated hosts with a network between them, on which the shipped core of the protocol runs."""
