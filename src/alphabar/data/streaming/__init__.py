"""Images that are read sequentially, because they do not fit on the disk or are not listed file by file."""
