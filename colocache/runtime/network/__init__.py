"""What speaks to other hosts: the group's secrets, encrypted TCP, and who may come in. Only a gateway imports it."""
