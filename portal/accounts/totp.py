"""Time-based one-time codes (RFC 6238): SHA-1, 30 seconds, six digits, as every authenticator app reads them."""

import hmac
from datetime import datetime
from uuid import UUID

import pyotp
import segno

from portal import sealing
from portal.settings import secret_key

ISSUER = "Signal Portal"
STEP_SECONDS = 30
DIGITS = 6


def new_secret() -> str:
    """160 random bits in base32."""
    return pyotp.random_base32()


def provisioning_uri(secret: str, email: str) -> str:
    """The `otpauth:` address that an authenticator app scans."""
    return pyotp.TOTP(secret).provisioning_uri(name=email, issuer_name=ISSUER)


def qr_svg(uri: str) -> str:
    """`uri` as an inline SVG that a strict content security policy shows: no style attribute, its own light ground."""
    return segno.make(uri, error="m", micro=False).svg_inline(
        scale=4, border=4, dark="#000", light="#fff", title="QR code for an authenticator app"
    )


def matching_step(secret: str, code: str, at: datetime) -> int | None:
    """The time step whose code this is: the current one, the one before or the one after; None for no match."""
    typed = code.replace(" ", "")
    if len(typed) != DIGITS or not (typed.isascii() and typed.isdigit()):
        return None
    now, totp = int(at.timestamp()) // STEP_SECONDS, pyotp.TOTP(secret)
    matches = [step for step in (now - 1, now, now + 1) if hmac.compare_digest(totp.generate_otp(step), typed)]
    return matches[-1] if matches else None


def seal_secret(person_id: UUID, secret: str) -> bytes:
    """`secret` encrypted for the `person` row. Raises `SettingInvalid` without a secret key."""
    return sealing.seal(secret_key(), secret.encode(), purpose=f"totp:{person_id}")


def unseal_secret(person_id: UUID, sealed: bytes) -> str:
    return sealing.unseal(secret_key(), sealed, purpose=f"totp:{person_id}").decode()
