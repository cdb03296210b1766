"""Every knob of the server, each declared once: flags, environment variables and documentation read this."""

from __future__ import annotations

import ipaddress
from typing import Literal

from pydantic import Field, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from .logs import LogFormat

MiB = 2**20


class Settings(BaseSettings):
    """Settings of one server. Environment variables carry the prefix `FARFIELD_`; flags win over them."""

    model_config = SettingsConfigDict(env_prefix="FARFIELD_", frozen=True, extra="ignore")

    host: str = Field("127.0.0.1", description="address to listen on; other than loopback it needs keys")
    port: int = Field(8642, ge=0, le=65535, description="TCP port; 0 takes a free one and prints it")
    uds: str | None = Field(None, description="path of a Unix socket to listen on instead of TCP")
    device: Literal["auto", "cpu", "cuda"] = Field(
        "auto", description="where kernels run; auto takes the GPU if CuPy sees one"
    )
    keys_file: str | None = Field(
        None,
        description="key file of `farfield keys`; without one, only loopback and Unix sockets are served",
    )
    require_keys: bool = Field(False, description="refuse to start without keys on loopback and Unix sockets too")
    allowed_hosts: str | None = Field(
        None,
        description="names, comma separated, by which a server on loopback without keys may be called "
        "beside localhost",
    )
    arena_bytes: int = Field(
        1024 * MiB,
        ge=4 * MiB,
        description="shared memory for all bodies and results in flight, taken at start",
    )
    max_arena_per_user: float = Field(
        0.5,
        gt=0,
        le=1,
        description="part of it that the bodies and results of one user may hold; a single request may hold more",
    )
    max_body_bytes: int = Field(256 * MiB, ge=1, description="largest request body")
    max_result_bytes: int = Field(256 * MiB, ge=1, description="largest sum of the results of one request")
    max_pairs: int = Field(
        10**13, ge=1, description="largest M x N of one request; 1e13 are minutes on a large GPU"
    )
    max_queue: int = Field(256, ge=1, description="requests that wait for a worker before others are refused")
    tls_certificate: str | None = Field(None, description="PEM file of the certificate to serve https with")
    tls_key: str | None = Field(None, description="PEM file of the certificate's private key")
    max_queue_per_user: int = Field(
        64, ge=1, description="requests of one user that wait, unless his key says else"
    )
    max_wait_s: float = Field(
        60.0, gt=0, description="seconds that a request without a deadline may be expected to wait for a worker"
    )
    max_connections: int = Field(2048, ge=1, description="open connections, of all clients together")
    max_connections_per_address: int = Field(512, ge=1, description="open connections from one address")
    max_head_bytes: int = Field(16384, ge=1024, description="largest head of a request: its line and headers")
    head_timeout_s: float = Field(5.0, gt=0, description="seconds that the head of a request may take")
    receive_timeout_s: float = Field(
        10.0,
        gt=0,
        description="seconds without a byte of a body, or of an answer read, after which a client is given up",
    )
    keep_alive_s: float = Field(75.0, gt=0, description="seconds that a connection may idle between requests")
    fast_bodies: bool = Field(
        True, description="receive bodies straight into shared memory; off takes uvicorn's own protocol"
    )
    job_timeout_s: float = Field(
        300.0, gt=0, description="seconds a request may run before its worker is replaced"
    )
    workers: int = Field(1, ge=1, le=64, description="worker programs, one per GPU; on the CPU one is enough")
    worker_memory_bytes: int = Field(
        0, ge=0, description="memory of a worker on the CPU beside the arena; 0 is no limit"
    )
    device_memory_bytes: int = Field(
        0, ge=0, description="device memory of a worker on a GPU; 0 is nine tenths of the device's"
    )
    part_s: float = Field(
        0.25, gt=0, description="seconds after which a long request lets others go, and may be cancelled"
    )
    divide_s: float = Field(
        0.5,
        gt=0,
        description="device seconds that a request is expected to take from which several workers share it",
    )
    worker_start_timeout_s: float = Field(60.0, gt=0, description="seconds a worker program may take to start")
    grace_s: float = Field(
        0.0, ge=0, description="seconds after SIGTERM in which requests are still taken, though readiness is gone"
    )
    drain_s: float = Field(10.0, ge=0, description="seconds that SIGTERM then waits for running requests")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="least level logged")
    log_format: LogFormat = Field("text", description="lines for people, or one JSON object per line")

    @field_validator("uds", "keys_file", "allowed_hosts")
    @classmethod
    def _no_text_is_none(cls, text: str | None) -> str | None:
        return text or None

    def allowed_host_names(self) -> frozenset[str]:
        """The names of `allowed_hosts` in lower case; empty ones are left out."""
        return frozenset((self.allowed_hosts or "").lower().replace(",", " ").split())

    def is_local(self) -> bool:
        """Whether only this machine can reach the server."""
        if self.uds is not None or self.host == "localhost":
            return True
        try:
            return ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return False
