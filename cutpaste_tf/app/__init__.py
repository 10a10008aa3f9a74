"""The page on which images are inspected."""
