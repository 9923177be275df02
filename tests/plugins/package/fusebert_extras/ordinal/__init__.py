"""The task `ordinal`: whole grades in an order, such as 1 to 5 stars."""
