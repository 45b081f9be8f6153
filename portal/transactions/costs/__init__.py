"""What a transaction may cost, and what it offers for gas."""
