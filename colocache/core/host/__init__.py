"""What the processes of one host share: the board of stamps, the shelf of values, and the claims of loads."""
