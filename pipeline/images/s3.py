"""Turns an ``s3://bucket/key`` address into a signed http(s) address, which may be read.

A signed address is an ordinary one, so images in buckets are fetched in the same way and with the
same limits as all others.
"""

from __future__ import annotations

import re
import threading
from typing import Any

import httpx

from pipeline.errors import ImageSourceError
from pipeline.settings import ImageSettings

S3 = "s3://"
DEFAULT_REGION = "us-east-1"
EXTRA_SECONDS = 60  # for which a signature is valid after the limit for fetching an image
_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{1,254}")


class Buckets:
    """Signs addresses of the buckets that ``images.s3_buckets`` names. Threads may share one."""

    def __init__(self, settings: ImageSettings) -> None:
        self._settings = settings
        self._made: Any = None
        self._lock = threading.Lock()

    def signed(self, url: str, name: str) -> httpx.URL:
        """The signed address of ``s3://bucket/key``. The key is used unchanged.

        Args:
            name: the image's name in errors.

        Raises:
            ImageSourceError: the address names no file, the bucket is not allowed, or the address
                cannot be signed.
        """
        from botocore.exceptions import BotoCoreError, ClientError

        bucket, _, key = url[len(S3) :].partition("/")
        # A server may take ".." for the folder above, which at the top holds the other buckets.
        climbs = any(part in (".", "..") for part in re.split(r"[/\\]", key))
        if not _BUCKET.fullmatch(bucket) or not key or climbs:
            raise ImageSourceError(
                f"The image {name} names no file of a bucket; write it as "
                "s3://bucket/folder/name.jpg."
            )
        if bucket not in self._settings.s3_buckets:
            raise ImageSourceError(
                f"The image {name} lies in a bucket that is not allowed; add "
                f"{bucket} to images.s3_buckets if you trust it."
            )
        try:
            signed = self._client().generate_presigned_url(
                "get_object",
                Params={"Bucket": bucket, "Key": key},
                ExpiresIn=int(self._settings.timeout_seconds) + EXTRA_SECONDS,
            )
            return httpx.URL(signed)
        except (BotoCoreError, ClientError, ValueError, httpx.InvalidURL) as error:
            raise ImageSourceError(
                f"The image {name} cannot be fetched ({error}); check images.s3_endpoint, "
                "images.s3_region and images.s3_key, or the AWS settings in the environment."
            ) from error

    def _client(self) -> Any:
        """The client, made when first needed because it may ask this machine for its role."""
        import botocore
        from botocore.config import Config
        from botocore.session import Session

        with self._lock:
            if self._made is None:
                given, session = self._settings, Session()
                if given.s3_key:
                    session.set_credentials(given.s3_key, given.s3_secret.get_secret_value())
                # Without credentials, a bucket that anyone may read can still be read.
                signing = "s3v4" if session.get_credentials() else botocore.UNSIGNED
                self._made = session.create_client(
                    "s3",
                    endpoint_url=given.s3_endpoint or None,
                    region_name=given.s3_region
                    or session.get_config_variable("region")
                    or DEFAULT_REGION,
                    config=Config(signature_version=signing),
                )
            return self._made
