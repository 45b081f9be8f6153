"""The database: engine, pool, db transactions, advisory locks and column helpers."""
