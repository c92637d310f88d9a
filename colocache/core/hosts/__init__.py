"""The protocol between the hosts of a group: the member is the host, and a gateway process speaks for it. Pure."""
