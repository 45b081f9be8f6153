"""Slows guessing down. Every attempt is charged before it is checked, so that parallel guesses gain nothing.

After `free` attempts each further one costs twice the wait of the last, up to 15 minutes; an hour of quiet forgets all.
Nobody is locked out for good (ASVS 5.0, 6.1.1).
"""

import hashlib
import ipaddress
import math
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID

import msgspec
from piccolo.querystring import QueryString

from portal import clock
from portal.db.engine import get_engine, in_transaction, run_sql
from portal.errors import TooManyRequests

LONGEST_WAIT_SECONDS = 900
FORGOTTEN_AFTER = timedelta(hours=1)


class Allowance(msgspec.Struct, frozen=True):
    """What attempts are counted under, and how many are free."""

    key: str
    free: int


def account_allowance(email: str, *, known_ip: str | None) -> Allowance:
    """Of whoever signs in as `email`. An address that this person signed in from before (`known_ip`) has its own,
    so that a stranger's guessing does not keep them out. Hashed, because people type passwords into the wrong field.
    """
    name = email if known_ip is None else f"{email} {known_ip}"
    return Allowance("account:" + hashlib.sha256(name.encode("utf-8", "replace")).hexdigest(), free=5)


def address_allowance(ip: str) -> Allowance:
    """Of one IPv4 address or one IPv6 /64, which is what one customer has. Wide, since offices share an address."""
    try:
        address = ipaddress.ip_address(ip)
    except ValueError:
        return Allowance("address:unknown", free=50)
    if address.version == 6 and address.ipv4_mapped is None:
        return Allowance(f"address:{ipaddress.ip_network((address, 64), strict=False)}", free=50)
    return Allowance(f"address:{getattr(address, 'ipv4_mapped', None) or address}", free=50)


def code_allowance(person_id: UUID) -> Allowance:
    """Of one person's one-time codes, wherever they are asked for."""
    return Allowance(f"code:{person_id}", free=5)


async def charge(allowance: Allowance) -> None:
    """Count an attempt. Raises `TooManyRequests` while the wait for the last one is not over; that is not counted.

    Committed on its own even inside a db transaction: a refused attempt rolls that back, but not its count.
    """
    now = clock.now()
    charged = await _run_apart(
        """INSERT INTO sign_in_throttle AS t (key, failures, last_failed_at) VALUES ({}, 1, {})
           ON CONFLICT (key) DO UPDATE SET
             last_failed_at = excluded.last_failed_at,
             failures = CASE WHEN t.last_failed_at < {} THEN 1 ELSE t.failures + 1 END,
             blocked_until = CASE WHEN t.last_failed_at >= {} AND t.failures + 1 >= {}
               THEN excluded.last_failed_at
                 + make_interval(secs => least({}::float8, power(2, least(t.failures + 1 - {}, 20)::float8))) END
           WHERE t.blocked_until IS NULL OR t.blocked_until <= excluded.last_failed_at
           RETURNING failures""",
        allowance.key,
        now,
        now - FORGOTTEN_AFTER,
        now - FORGOTTEN_AFTER,
        allowance.free,
        LONGEST_WAIT_SECONDS,
        allowance.free,
    )
    if not charged:
        raise await _too_many(allowance, now)


async def _too_many(allowance: Allowance, now: datetime) -> TooManyRequests:
    rows = await run_sql("SELECT blocked_until FROM sign_in_throttle WHERE key = {}", allowance.key)
    until = rows[0]["blocked_until"] if rows else None
    seconds = max(1, math.ceil((until - now).total_seconds())) if until else 1
    return TooManyRequests(f"Too many attempts. Wait {seconds} seconds, then try again.", retry_after_seconds=seconds)


async def forgive(allowance: Allowance) -> None:
    """Forget what was charged: the account's owner was here."""
    await _run_apart("DELETE FROM sign_in_throttle WHERE key = {}", allowance.key)


async def refund(allowance: Allowance) -> None:
    """Take back one charge. The others stay: signing in to an account of one's own must not excuse guessing others'."""
    await _run_apart(
        "UPDATE sign_in_throttle SET failures = greatest(failures - 1, 0), blocked_until = NULL WHERE key = {}",
        allowance.key,
    )


async def prune() -> int:
    """Delete what is forgotten; returns how many rows."""
    rows = await run_sql(
        "DELETE FROM sign_in_throttle WHERE last_failed_at < {} RETURNING id", clock.now() - FORGOTTEN_AFTER
    )
    return len(rows)


async def _run_apart(sql: str, *arguments: Any) -> list[Any]:
    """Run one statement outside the caller's db transaction.

    Inside one it takes a connection of its own, not one of the pool: to wait for the pool while holding one of its
    connections is how a pool runs dry.
    """
    if not in_transaction():
        return await run_sql(sql, *arguments)
    connection = await get_engine().get_new_connection()
    try:
        compiled, values = QueryString(sql, *arguments).compile_string()
        return list(await connection.fetch(compiled, *values))
    finally:
        await connection.close()
