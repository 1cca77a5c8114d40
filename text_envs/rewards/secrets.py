"""Keys and passwords stay out of the arguments of rewards, which are written to files."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["refuse_secrets"]

# Arguments that hold a secret by their name, spelt in any way: api_key, apiKey, X-API-Key.
_NAMES = re.compile(
    r".*(apikey|apitoken|authtoken|accesstoken|bearertoken|hftoken|hubtoken|refreshtoken|"
    r"sessiontoken|secrettoken|accesskey|secretkey|privatekey|subscriptionkey|authkey|"
    r"secret|password|passwd|passphrase|credentials?|authorization|bearer|cookie)"
    r"|token|auth|useauthtoken"
)
# Names that only say where a secret lies.
_PLACES = ("env", "envvar", "file", "path", "name")
# What keys look like, under any name.
_LOOKS = re.compile(
    r"\s*((bearer|basic|token)\s+(?=\S*\d)\S{8,}|sk-[\w-]{8,}|hf_\w{16,}|gh[pousr]_\w{16,}|"
    r"xox[abprs]-[\w-]{8,}|AKIA[0-9A-Z]{12,}|AIza[\w-]{20,}|eyJ[\w-]{8,}\.[\w-]+\.[\w-]+)\s*",
    re.IGNORECASE,
)
_ADDRESS = re.compile(r"\s*[a-z][a-z0-9+.-]*://[^/\s?#]*:[^/\s?#]*@", re.IGNORECASE)


def refuse_secrets(arguments: Any) -> None:
    """Refuse arguments of a reward, nested ones too, that hold a key.

    Args:
        arguments: what `text_envs.rewards.resolve` was given.

    Raises:
        ValueError: names the argument, never what it holds.
    """
    for where in _found(arguments, ""):
        raise ValueError(
            f"the reward's argument {where} holds a key or a password, which is never an argument: "
            "arguments are written to specs, files and messages. Put it into an environment "
            "variable and pass the variable's NAME, api_key_env='OPENAI_API_KEY', to 'judge' and "
            "'remote'; the Hub's token is read from HF_TOKEN"
        )


def _found(value: Any, where: str) -> Iterator[str]:
    if isinstance(value, Mapping):
        for name, inner in value.items():
            if isinstance(name, str):
                if _looks(name):  # a key in the place of a name is not to be quoted either
                    yield f"inside of {where or 'a mapping'}"
                path = f"{where}[{name!r}]" if where else repr(name)
                if _secret_by_name(name) and _filled(inner):
                    yield path
                else:
                    yield from _found(inner, path)
            else:
                yield from _found(inner, where)
    elif isinstance(value, list | tuple | set | frozenset):
        for inner in value:
            yield from _found(inner, where)
    elif isinstance(value, str | bytes):
        text = value.decode(errors="replace") if isinstance(value, bytes) else value
        if _looks(text):
            yield where or "given"


def _secret_by_name(name: str) -> bool:
    if re.search(r"\s", name):  # a prompt, by which demonstrations may be given
        return False
    plain = re.sub(r"[^a-z0-9]", "", name.lower())
    return bool(_NAMES.fullmatch(plain)) and not plain.endswith(_PLACES)


def _filled(value: Any) -> bool:
    """Return whether an argument holds a text; numbers, flags and None are no keys."""
    if isinstance(value, str | bytes):
        return bool(value.strip())
    if isinstance(value, Mapping):
        return any(map(_filled, value.values()))
    return isinstance(value, list | tuple) and any(map(_filled, value))


def _looks(text: str) -> bool:
    return bool(_LOOKS.fullmatch(text)) or bool(_ADDRESS.match(text))
