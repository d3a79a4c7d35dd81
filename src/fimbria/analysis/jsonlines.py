"""Flows as JSON lines in, answers as JSON lines out; docs/reference/policy-eval.schema.json.

Text comes in blocks of whole lines, so that a pipe is answered as it is fed and a file of any
length needs little memory. Answers of many flows are put together from parts that are encoded once:
the names of ends, and halves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, BinaryIO

import msgspec

from fimbria.analysis.engine import BATCH, FEW, JudgesDiffer
from fimbria.analysis.flows import Flow, FlowError
from fimbria.analysis.results import Outcome, Result

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from fimbria.analysis.engine import Engine

BLOCK = 1 << 20
"""Bytes that are read at once."""

_decode_lines = msgspec.json.Decoder(Flow).decode_lines
_decode = msgspec.json.Decoder(Flow).decode
_encode = msgspec.json.encode
_VERDICTS = (Outcome.ALLOWED, Outcome.REDIRECTED, Outcome.DENIED)


class Failure(msgspec.Struct, frozen=True):
    """The answer to a line that could not be judged. `line` counts from 1, empty lines too."""

    line: int
    error: str


def blocks(stream: BinaryIO) -> Iterator[bytes]:
    """Yield a stream's bytes as they come, cut after the last whole line."""
    rest = b""
    read = getattr(stream, "read1", stream.read)
    while part := read(BLOCK):
        whole, newline, tail = part.rpartition(b"\n")
        if newline:
            yield rest + whole + newline
            rest = tail
        else:
            rest += part
    if rest:
        yield rest


class Answers:
    """Answers flows of one engine. `failures` is what could not be judged so far.

    `differ` counts flows about which the judges disagree.
    """

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.failures: list[Failure] = []
        self.differ = 0
        self._line = 0
        self._names = _Encoded()
        self._parts: dict[int, tuple[int, str]] = {}

    def block(self, text: bytes) -> bytes:
        """Return the answers to a block of lines, one line each, in order."""
        lines = text.count(b"\n") + (not text.endswith(b"\n"))
        first = self._line + 1
        self._line += lines
        try:
            flows: list[Flow] = _decode_lines(text)
        except (msgspec.DecodeError, UnicodeDecodeError):
            flows = []
        if len(flows) != lines:
            return self._careful(text.split(b"\n"), first)
        found: list[str] = []
        for start in range(0, lines, BATCH):
            part = flows[start : start + BATCH]
            found += self._answers(part, range(first + start, first + start + len(part)))
        return "".join(found).encode()

    def results(self, text: bytes) -> Iterator[Result]:
        """Yield the results of a block of lines as values; failures are noted."""
        for number, line in enumerate(text.split(b"\n"), self._line + 1):
            self._line = number
            flow = self._flow(line, number) if line.strip() else None
            answer = self._one(flow, number) if flow is not None else None
            if answer is not None:
                yield answer
        self._line -= text.endswith(b"\n")

    def _careful(self, lines: list[bytes], first: int) -> bytes:
        """Answer line by line, because one of them is empty or wrong."""
        found: list[str] = []
        flows: list[Flow] = []
        numbers: list[int] = []
        for number, line in enumerate(lines, first):
            if not line.strip():
                continue
            flow = self._flow(line, number)
            if flow is not None:
                flows.append(flow)
                numbers.append(number)
                continue
            wrong = _text(self.failures[-1])
            found += [*self._answers(flows, numbers), wrong]
            flows, numbers = [], []
        return "".join([*found, *self._answers(flows, numbers)]).encode()

    def _flow(self, line: bytes, number: int) -> Flow | None:
        try:
            return _decode(line)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            self._fail(number, str(error))
            return None

    def _fail(self, line: int, error: str) -> Failure:
        failure = Failure(line, error)
        self.failures.append(failure)
        return failure

    def _answers(self, flows: Sequence[Flow], numbers: Sequence[int]) -> list[str]:
        """Return the answers of flows that stand in these lines."""
        if self.engine.judge != "maps" or len(flows) < FEW:
            return [self._single(flow, number) for flow, number in zip(flows, numbers, strict=True)]
        names, parts, part = self._names, self._parts, self._part
        egress, ingress = self.engine.bulk.codes(flows)
        found: list[str] = []
        for index, (flow, out, into) in enumerate(zip(flows, egress, ingress, strict=True)):
            if out < 0:
                found.append(self._single(flow, numbers[index]))
                continue
            worst, first = parts.get(out) or part(out)
            other, second = parts.get(into) or part(into)
            found.append(
                f'{{"source":{names[flow.source]},"destination":{names[flow.destination]},'
                f'"protocol":{names[flow.protocol]},"port":{flow.port},'
                f'"verdict":"{_VERDICTS[worst if worst > other else other]}",'
                f'"egress":{first},"ingress":{second}}}\n'
            )
        return found

    def _part(self, code: int) -> tuple[int, str]:
        """Return how bad a half is, and its text; each is made once."""
        half = self.engine.bulk.half(code)
        made = self._parts[code] = _VERDICTS.index(half.verdict), _encode(half).decode()
        return made

    def _single(self, flow: Flow, number: int) -> str:
        failures = len(self.failures)
        answer = self._one(flow, number)
        return _text(self.failures[failures] if answer is None else answer)

    def _one(self, flow: Flow, number: int) -> Result | None:
        try:
            return self.engine.eval(flow)
        except FlowError as error:
            self._fail(number, str(error))
        except JudgesDiffer as error:
            self.differ += 1
            self._fail(number, f"the judges differ: {error}")
        return None


class _Encoded(dict[str, str]):
    """Strings as JSON, each encoded once; forgotten when there are too many."""

    def __missing__(self, text: str) -> str:
        if len(self) > 1 << 19:
            self.clear()
        found = self[text] = _encode(text).decode()
        return found


def _text(answer: Result | Failure) -> str:
    return _encode(answer).decode() + "\n"


def schema() -> dict[str, Any]:
    """Return the JSON schema of the lines: `$defs` Flow (in), Result and Failure (out)."""
    _, parts = msgspec.json.schema_components(
        (Flow, Result, Failure), ref_template="#/$defs/{name}"
    )
    for name, part in parts.items():
        part["description"] = " ".join(part["description"].split())
        if name != "Flow" and "properties" in part:
            part["additionalProperties"] = False
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "fimbria policy eval",
        "description": "A line of output: the answer to a flow, or why there is none. "
        "Lines of input are $defs/Flow; what else they have is ignored.",
        "anyOf": [{"$ref": "#/$defs/Result"}, {"$ref": "#/$defs/Failure"}],
        "$defs": parts,
    }
