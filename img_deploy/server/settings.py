"""What a server is started with. Needs neither FastAPI nor torch."""

import ipaddress
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from img_deploy.errors import InputError

SHORTEST_TOKEN = 16
A_TOKEN = f"expected a file of one word of at least {SHORTEST_TOKEN} characters; `openssl rand -hex 32` makes one"


class ServerSettings(BaseModel):
    """One server; ``img-deploy serve --help`` says more of each."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    bundle: Path = Path("deploy")
    index: str | None = None
    features: Path | None = None
    durations: Path | None = None
    clip_seconds: float | None = Field(None, gt=0, allow_inf_nan=False)
    media: Path | None = None
    backend: str = "auto"
    threads: int | None = Field(None, ge=1)
    host: str = "127.0.0.1"
    port: int = Field(8000, ge=0, le=65535)
    workers: int = Field(1, ge=1, le=64)
    token_file: Path | None = None
    no_auth: bool = False
    batch_size: int = Field(16, ge=1)
    window: float = Field(0.002, ge=0, le=1)
    """Seconds that an idle server waits for a first item's companions."""
    most_requests: int = Field(256, ge=1)
    """Requests that may be computed or wait at once; further ones are refused."""
    timeout: float = Field(30, gt=0, allow_inf_nan=False)
    """Seconds that a request may take."""
    most_body: int = Field(64 << 20, ge=1024)
    """Bytes of a request's body."""
    most_uploads: int = Field(1000, ge=0)
    """Videos that are kept in memory, where there is no index to add them to."""
    cache_bytes: int = Field(256 << 20, ge=0)
    """Of encoded videos that are kept beside."""

    @property
    def on_loopback(self) -> bool:
        """Whether programs on this machine alone can connect."""
        if self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False

    def token(self) -> str | None:
        """The token that requests have to bear; None where none is asked for.

        Raises:
            InputError: the file cannot be read or holds no token; or there is none, and other machines can connect.
        """
        if self.token_file is None:
            if self.on_loopback or self.no_auth:
                return None
            raise InputError(
                f"--host {self.host}: other machines can connect, so --token-file is needed; or say --no-auth"
            )
        try:
            token = self.token_file.read_text(encoding="ascii").strip()
        except (OSError, ValueError) as error:
            why = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise InputError(f"{self.token_file}: cannot be read as a token ({why}); {A_TOKEN}") from None
        if len(token) < SHORTEST_TOKEN or not token.isprintable() or len(token.split()) != 1:
            raise InputError(f"{self.token_file}: got {len(token)} characters; {A_TOKEN}")
        return token
