"""API keys and the workspaces that they can access."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Key:
    """One API key; the kind is ``personal`` or ``workspace``."""

    value: str
    kind: str
    user_id: str
    workspace_id: str


class KeyRing:
    """The server's API keys: two users, each with a workspace, a personal key and a workspace key.

    :param api_key: the first user's personal key.
    :ivar personal_keys_allowed: whether the first workspace accepts personal keys.
    """

    def __init__(self, api_key: str, workspace_id: str) -> None:
        self.personal_keys_allowed = True
        other = f"other-{workspace_id}"
        self.personal = Key(api_key, "personal", "user-1", workspace_id)
        self.workspace = Key("sk-sim-emulator-workspace-key", "workspace", "user-1", workspace_id)
        self.other_user = Key("sk-sim-emulator-other-user-key", "personal", "user-2", other)
        self.other_workspace = Key("sk-sim-emulator-other-workspace-key", "workspace", "user-2", other)
        keys = (self.personal, self.workspace, self.other_user, self.other_workspace)
        self._by_value = {key.value: key for key in keys}

    def find(self, value: str | None) -> Key | None:
        """Return the key of this value, if there is one."""
        return self._by_value.get(value) if value else None
