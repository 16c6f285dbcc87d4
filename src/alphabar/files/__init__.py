"""Files on the disk.

They are written whole or not at all (`atomic`), opened so that nobody's file does harm (`reading`), and results are kept under a
hash of what they depend on (`cache`).
"""
