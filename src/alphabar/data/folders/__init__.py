"""Folders of images on the disk: their files, classes and splits, and the captions and numbers that lie beside them."""
