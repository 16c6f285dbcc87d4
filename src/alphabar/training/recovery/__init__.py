"""What keeps the weights of a run sound: a test that they are numbers, the record of skipped steps, and the way back."""
