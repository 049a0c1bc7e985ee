"""A file for each format: from its bytes to blocks of text under headings."""
