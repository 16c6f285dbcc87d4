"""Images that are read one after the other, because they do not fit on the disk or are not listed file by file."""
