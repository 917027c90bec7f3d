"""Names and tables of labels, as people write them."""
