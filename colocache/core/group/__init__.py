"""The protocol between the members of a group. Pure: bytes and instants in; frames, deadlines and outcomes out."""
