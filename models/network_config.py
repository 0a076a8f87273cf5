"""What the configs of all networks share: how they are stored in a checkpoint."""

from dataclasses import asdict
from typing import Any, TypeVar

Config = TypeVar("Config", bound="NetworkConfig")


class NetworkConfig:
    """Base of the frozen dataclasses that describe a network's shape."""

    def to_dict(self) -> dict[str, Any]:
        """The fields by name, for JSON."""
        return asdict(self)  # type: ignore[call-overload]  # every config is a dataclass

    @classmethod
    def from_dict(cls: type[Config], values: dict[str, Any]) -> Config:
        """Raises TypeError on a field that this version does not know, ValueError on a value that cannot be."""
        if not isinstance(values, dict):
            raise TypeError(f"Invalid config ({values!r:.60}). Supported are the fields of {cls.__name__} by name.")
        known: dict[str, Any] = {
            key: tuple(value) if isinstance(value, list) else value for key, value in values.items()
        }
        return cls(**known)
