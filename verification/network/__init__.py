"""Several hosts on one machine: networks that can be cut, name servers that lie, and a campaign that judges reads."""
