"""One run: one category, trained and evaluated with one seed."""
