"""Pictures that sum up what a command did."""
