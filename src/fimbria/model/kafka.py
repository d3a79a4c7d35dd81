"""Reading rules about Kafka requests. Names and numbers of requests: Kafka's protocol guide."""

from __future__ import annotations

import re
from typing import Any

from fimbria.model.fields import Fields
from fimbria.model.policy import PolicyError

ROLES = ("produce", "consume")
API_KEYS = (
    "produce", "fetch", "offsets", "metadata", "leaderandisr", "stopreplica", "updatemetadata",
    "controlledshutdown", "offsetcommit", "offsetfetch", "findcoordinator", "joingroup",
    "heartbeat", "leavegroup", "syncgroup", "describegroups", "listgroups", "saslhandshake",
    "apiversions", "createtopics", "deletetopics", "deleterecords", "initproducerid",
    "offsetforleaderepoch", "addpartitionstotxn", "addoffsetstotxn", "endtxn", "writetxnmarkers",
    "txnoffsetcommit", "describeacls", "createacls", "deleteacls", "describeconfigs",
    "alterconfigs",
)  # fmt: skip
"""Kinds of requests in lower case; the place is the number on the wire."""

_TOPIC = re.compile(r"[a-zA-Z0-9._-]{1,255}")
_VERSION = re.compile(r"[0-9]{1,5}")


def kafka_rule(value: Any, path: str) -> None:
    """Check a rule; every field may be absent. Raises PolicyError."""
    fields = Fields(value, path)
    role, key = fields.text("role"), fields.text("apiKey")
    if role and key:
        raise PolicyError(fields.at("apiKey"), "Combining Role and APIKey is not supported")
    if role and not _is_one(role, ROLES):
        raise PolicyError(fields.at("role"), f"{role!r} is none of {', '.join(ROLES)}")
    if key and not _is_one(key, API_KEYS):
        raise PolicyError(fields.at("apiKey"), f"{key!r} is no kind of request")
    version = fields.text("apiVersion")
    if version and not (_VERSION.fullmatch(version) and int(version) < 1 << 15):
        raise PolicyError(fields.at("apiVersion"), f"{version!r} is no number from 0 to 32767")
    topic = fields.text("topic")
    if topic and not _TOPIC.fullmatch(topic):
        raise PolicyError(fields.at("topic"), f"{topic!r} is no name of a topic")
    fields.text("clientID")
    fields.done()


def _is_one(text: str, among: tuple[str, ...]) -> bool:
    return text.isascii() and text.lower() in among
