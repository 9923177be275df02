"""What may be wrong with data, although every row can be read."""
