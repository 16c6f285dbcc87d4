"""The functions of a notebook or of a program of one's own: `alphabar.train`, `alphabar.load` and `alphabar.show`.

They call what the command line calls, with the same configuration, and return objects in place of files and exit codes. Errors of
the user are UserError, with one line.
"""
