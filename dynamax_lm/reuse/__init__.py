"""One loaded model answers the same requests under several settings: shared parts run once."""
