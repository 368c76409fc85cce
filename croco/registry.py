"""Registry: a release, made known to Kubeflow's Model Registry.

The registry holds no weights: its entry points to the store, and says which base they come from and how they were
judged. What a kill leaves half-registered (a model without the version, a version without its address) is completed by
the next call.

Source: model-registry 0.3.18, which speaks version v1 of the registry's API.
"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from croco.release import Release

AUTHOR = "croco"
FORMAT = {"model_format_name": "vLLM", "model_format_version": "1"}
"""What KServe chooses a runtime by."""


def register(address: str, release: Release, location: str, numbers: Mapping[str, Any]) -> str:
    """Register a release, or find it registered; the id of its version.

    Args:
        address: http://HOST:PORT of the registry's server, or https:// where it asks for a token; that is read from
            the file that KF_PIPELINES_SA_TOKEN_PATH names, else from the pod's own.
        release: What to register.
        location: Where servers find the model, s3://bucket/prefix.
        numbers: Metadata of the version: texts and numbers.

    Raises: ConnectionError where the registry cannot be reached or refuses; ValueError for an address that is none, or
        where another model has this name and version.
    """
    check_address(address)
    from aiohttp import ClientError
    from model_registry import ModelRegistry
    from model_registry.exceptions import StoreError
    from mr_openapi.exceptions import OpenApiException

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # no token, where none is asked for
            registry = ModelRegistry(address, author=AUTHOR)
        return _register(registry, release, location, numbers)
    except (ClientError, OpenApiException, StoreError, TimeoutError, OSError) as error:
        what = " ".join(str(error).split())[:200] or type(error).__name__
        raise ConnectionError(
            f"{address}: found no way to register {release.name} {release.version} ({what}); expected Kubeflow's Model "
            "Registry there, and a token that may write"
        ) from error


def check_address(address: str) -> None:
    """Raises: ValueError for what is no address of a server."""
    if urlsplit(address).scheme not in ("http", "https") or not urlsplit(address).hostname:
        raise ValueError(f"registry: found {address!r}; expected http://HOST:PORT or https://HOST:PORT")


def _register(registry: Any, release: Release, location: str, numbers: Mapping[str, Any]) -> str:
    if found := _found(registry.get_model_version, release):
        known = _found(registry.get_model_artifact, release)
        if known and known.uri != location:
            raise ValueError(f"registry: found {release.name} {release.version} at {known.uri}; expected {location}")
        if not known:
            add = registry._register_model_artifact(found, release.name, location, **FORMAT)
            registry.async_runner(add)
        return str(found.id)
    registry.register_model(
        release.name,
        location,
        version=release.version,
        version_description=f"tuned from {release.base['id']}",
        metadata={"sha256": release.sha256, **numbers},
        **FORMAT,
    )
    return str(registry.get_model_version(release.name, release.version).id)


def _found(get: Callable[[str, str], Any], release: Release) -> Any:
    """What the registry has of a release; None where it does not even know the model."""
    from model_registry.exceptions import StoreError

    try:
        return get(release.name, release.version)
    except StoreError:
        return None
