"""`python -m alphabar` does what the program `alphabar` does."""

from alphabar.cli.program import MODULE, run_program

if __name__ == "__main__":
    run_program(MODULE)
