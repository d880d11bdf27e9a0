"""Who may connect, who is asking, what they may do and how much of it, and the record of it."""
