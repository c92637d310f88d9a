"""What was built only to be measured."""
