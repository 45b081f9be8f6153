"""What the addresses that pay have, how long it lasts, and how it is topped up."""
