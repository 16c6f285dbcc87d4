"""The features in which images are compared: of frozen networks, of networks trained on the data, and of plain pixels."""
