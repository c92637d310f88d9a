"""What makes the database."""
