"""Shows what run directories hold: in a browser, and in the terminal. Writes nothing there."""
