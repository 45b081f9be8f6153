"""Sources and their secrets, verification, intake and history of signals."""
