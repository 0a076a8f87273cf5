"""What travels between encoder and decoder: VideoTokens, its file format and its accounting. No torch in here."""
