"""The functions of a notebook or of a program of one's own: `alphabar.train`, `alphabar.load` and `alphabar.show`.

They run the same code as the command line, with the same configuration, and return objects instead of exit codes. Bad input raises
UserError with a message of one line.
"""
