"""What a call does, step by step: each operation is written once, and driven by a thread or by a task."""
