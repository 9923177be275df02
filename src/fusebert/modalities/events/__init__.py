"""What someone did, in order: clicks, views, ratings, purchases."""
