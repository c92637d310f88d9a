"""What connects hosts: where they are, the group's secrets, encrypted TCP, and who may come in. For gateways only."""
