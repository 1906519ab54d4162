"""Answers as OpenAI writes them: whole, or in the pieces of a stream."""

from __future__ import annotations

import json
import secrets
import time
from collections.abc import Sequence
from typing import Any

from .._core import VERSION, isa
from .._results import Generation, Token
from .._tokenizer import Tokenizer
from ._requests import Request
from ._scheduler import Event

FINISH = {"length": "length", "end": "stop", "stop": "stop", "interrupted": "stop"}


class Answer:
    """What a request gets, of its sequences' events.

    `add` takes every event, in order, and returns what a stream shows of it; `whole` is the answer
    once all sequences are over.
    """

    def __init__(self, request: Request, model_name: str, tokenizer: Tokenizer) -> None:
        n = max(1, len(request.prompts))
        self._request = request
        self._tokenizer = tokenizer
        self._is_chat = bool(request.messages)
        self._tokens: list[list[Token]] = [[] for _ in range(n)]
        self._n_chars = [0] * n
        self._results: list[Generation | None] = [None] * n
        self._n_prompt = [0] * n
        kind = "chat.completion" if self._is_chat else "text_completion"
        identity = ("chatcmpl-" if self._is_chat else "cmpl-") + secrets.token_hex(12)
        self._head = {
            "id": identity,
            "object": kind,
            "created": int(time.time()),
            "model": model_name,
            "system_fingerprint": f"a2sf-{VERSION}-{isa()}",
        }

    def begin(self) -> list[dict[str, Any]]:
        """Return what a stream begins with: in a chat, who speaks."""
        if not self._is_chat:
            return []
        delta = {"role": "assistant", "content": ""}
        return [
            self._chunk([{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}])
        ]

    def add(self, event: Event) -> list[dict[str, Any]]:
        """Take an event; return the chunks of a stream that tell of it."""
        i = event.index
        text = "".join(token.text for token in event.tokens)
        logprobs = self._logprobs(event.tokens, self._n_chars[i])
        self._n_chars[i] += len(text)
        chunks = []
        if text or (logprobs is not None and event.tokens):
            chunks.append(self._chunk([self._piece(i, text, logprobs, None)]))
        if not self._request.stream:
            self._tokens[i].extend(event.tokens)
        if event.result is not None:
            self._results[i] = event.result
            self._n_prompt[i] = event.n_prompt
            reason = FINISH[event.result.finish_reason]
            chunks.append(self._chunk([self._piece(i, "", None, reason)]))
        return chunks

    def end(self) -> list[dict[str, Any]]:
        """Return what a stream ends with: its usage, if it was asked for."""
        return [self._chunk([], self.usage())] if self._request.include_usage else []

    def whole(self) -> dict[str, Any]:
        """Return the answer in one piece."""
        choices = []
        for i, result in enumerate(self._results):
            assert result is not None
            tokens = self._tokens[i]
            choice: dict[str, Any] = {"index": i}
            text = "".join(token.text for token in tokens)
            if self._is_chat:
                choice["message"] = {"role": "assistant", "content": text, "refusal": None}
            else:
                choice["text"] = text
            choice["logprobs"] = self._logprobs(tokens, 0)
            choice["finish_reason"] = FINISH[result.finish_reason]
            choices.append(choice)
        return {**self._head, "choices": choices, "usage": self.usage()}

    def usage(self) -> dict[str, Any]:
        """Return the counts of tokens, and what the caches did: sums over the sequences."""
        results = [result for result in self._results if result is not None]
        stats = [result.stats for result in results]
        n_prompt = sum(self._n_prompt)
        n_generated = sum(len(result.ids) for result in results)
        return {
            "prompt_tokens": n_prompt,
            "completion_tokens": n_generated,
            "total_tokens": n_prompt + n_generated,
            "a2sf": {
                "budget": max((s.budget or 0 for s in stats), default=0) or None,
                "n_evicted": sum(s.n_evicted for s in stats),
                "n_live": max((s.n_live for s in stats), default=0),
                "kv_bytes": sum(s.kv_bytes for s in stats),
                "kv_bytes_full": sum(s.kv_bytes_full for s in stats),
                "prompt_s": sum(s.prompt_s for s in stats),
                "decode_s": sum(s.decode_s for s in stats),
            },
        }

    def _chunk(
        self, choices: list[dict[str, Any]], usage: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        chunk = {**self._head, "choices": choices}
        if self._is_chat:
            chunk["object"] = "chat.completion.chunk"
        if self._request.include_usage:
            chunk["usage"] = usage
        return chunk

    def _piece(
        self, index: int, text: str, logprobs: dict[str, Any] | None, reason: str | None
    ) -> dict[str, Any]:
        piece: dict[str, Any] = {"index": index}
        if self._is_chat:
            piece["delta"] = {"content": text} if reason is None else {}
        else:
            piece["text"] = text
        return {**piece, "logprobs": logprobs, "finish_reason": reason}

    def _logprobs(self, tokens: Sequence[Token], offset: int) -> dict[str, Any] | None:
        """Return the tokens' log-probabilities, where the request asks for them."""
        if not self._request.logprobs:
            return None
        texts = [self._tokenizer.decode([token.id], special=True) for token in tokens]
        if self._is_chat:
            content: list[dict[str, Any]] = [
                {"token": text, "logprob": t.logprob, "bytes": None, "top_logprobs": []}
                for text, t in zip(texts, tokens, strict=True)
            ]
            return {"content": content, "refusal": None}
        offsets = []
        for token in tokens:
            offsets.append(offset)
            offset += len(token.text)
        return {
            "tokens": texts,
            "token_logprobs": [token.logprob for token in tokens],
            "top_logprobs": None,
            "text_offset": offsets,
        }


def server_sent(item: dict[str, Any] | str) -> bytes:
    """Return a server-sent event that holds an object as JSON, or a word."""
    text = item if isinstance(item, str) else json.dumps(item, separators=(",", ":"))
    return f"data: {text}\n\n".encode()
