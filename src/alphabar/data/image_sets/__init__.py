"""The kinds of `ImageSet`: resident in memory, decoded when asked for, numbered, or of several sizes."""
