"""What connects hosts: who they are, where they are, and how one speaks to another one."""
