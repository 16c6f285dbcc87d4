"""From a picture to pixels of one shape: what Pillow opens and what other people's code gives, of 8 and of 16 bits."""
