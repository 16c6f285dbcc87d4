"""Files on the disk: written whole or not at all (`atomic`), and results kept under a hash of what they depend on (`cache`)."""
