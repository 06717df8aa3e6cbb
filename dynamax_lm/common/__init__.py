"""What every part may use: errors, files written whole, intervals, the command line."""
