"""The real stream, killed wherever it can be, against the books kept by hand."""
