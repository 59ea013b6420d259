"""What every message from outside must satisfy, whatever it means: one walk over its fields before it is used."""

from __future__ import annotations

import re
import secrets
from collections.abc import Mapping

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from shoal.errors import InvalidArgument

MAX_STRING_BYTES = (128 << 10) - 1
"""The kernel takes no longer argument or variable (MAX_ARG_STRLEN)."""

MAX_ITEMS = 10_000
"""Of a repeated field or a map."""

_REQUEST_ID = re.compile(r"[A-Za-z0-9_-]{1,64}")


def invalid(field: str, message: str, hint: str | None = None) -> InvalidArgument:
    """The error for a field of a request (reason INVALID_FIELD, metadata "field")."""
    return InvalidArgument(f"{field}: {message}", reason="INVALID_FIELD", hint=hint, metadata={"field": field})


def check_message(message: Message, at: str = "") -> None:
    """No NUL in strings, no unknown enum values, nothing beyond the limits. Raises InvalidArgument (INVALID_FIELD)."""
    for field, value in message.ListFields():
        name = f"{at}{field.name}"
        if not field.is_repeated:
            _check_value(field, value, name)
            continue
        if len(value) > MAX_ITEMS:
            raise invalid(name, f"has {len(value)} items, more than {MAX_ITEMS}")
        kinds = _map_kinds(field)
        if kinds is not None:
            for key, item in value.items():
                _check_value(kinds["key"], key, name)
                _check_value(kinds["value"], item, name)
        else:
            for item in value:
                _check_value(field, item, name)


def operation_id(text: str) -> str:
    """The request's id, or a new one for an empty text. Raises InvalidArgument (INVALID_FIELD)."""
    if not text:
        return secrets.token_hex(16)
    return optional_id(text)


def optional_id(text: str) -> str:
    """The request's id as it is, also empty. Raises InvalidArgument (INVALID_FIELD)."""
    if text and not _REQUEST_ID.fullmatch(text):
        raise invalid("request_id", "must be 1 to 64 characters of A-Z a-z 0-9 _ -")
    return text


def required(field: str, text: str) -> str:
    """The text, which must not be empty. Raises InvalidArgument (INVALID_FIELD)."""
    if not text:
        raise invalid(field, "is missing")
    return text


def _map_kinds(field: FieldDescriptor) -> Mapping[str, FieldDescriptor] | None:
    entry = field.message_type
    return entry.fields_by_name if entry is not None and entry.GetOptions().map_entry else None


def _check_value(field: FieldDescriptor, value: object, name: str) -> None:
    if isinstance(value, Message):
        check_message(value, f"{name}.")
    elif isinstance(value, str):
        if "\0" in value:
            raise invalid(name, "holds a NUL character")
        if len(value) > MAX_STRING_BYTES or len(value.encode()) > MAX_STRING_BYTES:
            raise invalid(name, f"is longer than {MAX_STRING_BYTES} bytes")
    elif field.enum_type is not None and value not in field.enum_type.values_by_number:
        raise invalid(name, f"{value} is no value of {field.enum_type.full_name} that this daemon knows")
