"""Background work: SAQ is the doorbell and the clock, the database the queue of record."""
