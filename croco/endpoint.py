"""Endpoint: a judge behind an OpenAI-compatible API, in the place of an engine.

The server renders the chat template and counts tokens, so a prompt is text here. Its key comes from the environment or
a mounted Secret, never from a flag or a config.
"""

import json
import os
import re
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from croco.engine import Completion, Sampling

KEY, SECRET = "JUDGE_API_KEY", Path("/etc/croco/judge/apikey")
"""The variable, and the file of a mounted Secret, that hold the key; a server without keys needs neither."""
RETRIES = 8
"""Of one request, for no connection, no answer in time, 408, 409, 429 and 5xx; pauses double from .5 to 8 s, or are as
long as the server asks for (ours)."""
SECONDS = 600.0
"""Until a request counts as unanswered: a busy server may hold it that long (ours)."""
_TOO_LONG = re.compile(
    r"context.?(length|window)|maximum model length|prompt is too long|too many (input )?tokens", re.I
)
TOKEN_LIKE = re.compile(r"<\|[^\s<>|]{1,40}\|>|</?(?:start|end)_of_turn>|\[/?INST\]")
"""What the templates of today's judges mark turns with; the server would read it in an answer as such a mark."""


class Endpoint:
    """A model behind `url`; like engine.Generator, but for prompts as text, one user message each."""

    gpus = 0
    """Ours; the server's are its own."""
    max_model_len = 0
    """Nobody says; the server refuses what is too long."""

    def __init__(
        self,
        url: str,
        model: str,
        *,
        template: Mapping[str, Any],
        concurrency: int,
        seconds: float = SECONDS,
        retries: int = RETRIES,
    ) -> None:
        """`template`: switches of the model's chat template, as vLLM and SGLang take them. `concurrency`: requests at
        a time."""
        from openai import OpenAI

        if concurrency < 1:
            raise ValueError(f"judge_concurrency: found {concurrency}; expected 1 or more")
        self.url, self.model, self.template, self.concurrency = check(url), model, dict(template), concurrency
        self.key = api_key()
        self.client = OpenAI(base_url=url, api_key=self.key or "none", max_retries=retries, timeout=seconds)
        self.served: set[str] = set()
        """What the server called the models that answered."""
        self.tokens_in, self.tokens_out = 0, 0

    def __call__(self, prompts: Sequence[str], samplings: Sequence[Sampling]) -> list[list[Completion]]:
        """One reply to each prompt, in order; none to a prompt that is too long for the server.

        Raises: PermissionError for a key that is refused; ConnectionError where the server cannot be reached or fails
        for long; ValueError for a request it refuses, or an answer that is none.
        """
        with ThreadPoolExecutor(self.concurrency) as pool:
            answers = list(pool.map(self._ask, prompts, samplings))
        completions = []
        for answer in answers:
            if answer:
                self.served.add(answer["model"])
                self.tokens_in += answer["usage"]["prompt_tokens"]
                self.tokens_out += answer["usage"]["completion_tokens"]
            completions.append([Completion(answer["text"], [], answer["finish_reason"])] if answer else [])
        return completions

    def _ask(self, prompt: str, sampling: Sampling) -> dict[str, Any] | None:
        import openai

        try:
            response = self.client.chat.completions.with_raw_response.create(
                model=self.model,
                messages=[{"role": "user", "content": prompt}],
                temperature=sampling.temperature,
                top_p=sampling.top_p,
                max_tokens=sampling.max_tokens,
                seed=openai.omit if sampling.seed is None else sampling.seed,
                extra_body=self._beyond(sampling),
            )
        except (openai.AuthenticationError, openai.PermissionDeniedError) as error:
            raise PermissionError(
                f"{self.url}: found HTTP {error.status_code} for {self.model}; expected a key that may use it, in "
                f"{KEY} or {SECRET}"
            ) from None  # its text may hold a part of the key
        except openai.APIStatusError as error:
            said = self._hidden(error.message)
            if error.status_code in (400, 413, 422) and _TOO_LONG.search(said):
                return None
            kind = ConnectionError if error.status_code >= 500 or error.status_code == 429 else ValueError
            raise kind(
                f"{self.url}: found HTTP {error.status_code} ({said}); expected a reply of {self.model}"
            ) from None
        except openai.APIConnectionError as error:
            cause = self._hidden(str(error.__cause__ or error))
            raise ConnectionError(
                f"{self.url}: found no answer ({cause}) in {self.client.max_retries + 1} tries; expected an "
                "OpenAI-compatible server there"
            ) from None
        return parse(response.content, self.url)

    def _beyond(self, sampling: Sampling) -> dict[str, Any]:
        """What OpenAI's own API refuses to know, so only what the judge's format sets: where it sets no top_k, a server
        may have its own."""
        more: dict[str, Any] = {"top_k": sampling.top_k} if sampling.top_k else {}
        return more | ({"chat_template_kwargs": self.template} if self.template else {})

    def _hidden(self, text: str) -> str:
        return (text.replace(self.key, "***") if self.key else text)[:300]


def check(url: str) -> str:
    """`url` itself. Raises: ValueError unless it is http(s)://HOST/PATH and no more; never repeats what it found, which
    may be a password."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.username or parts.query or parts.fragment:
        raise ValueError(
            "judge endpoint: found an address of another form; expected http://HOST:PORT/v1 or https://HOST/v1, "
            f"without a key in it: that goes into {KEY} or {SECRET}"
        )
    return url


def api_key(environment: Mapping[str, str] | None = None, file: Path = SECRET) -> str:
    """The key, from the environment or else the file; empty where there is none."""
    variables = os.environ if environment is None else environment
    return variables.get(KEY, "").strip() or (file.read_text(encoding="utf-8").strip() if file.is_file() else "")


def parse(content: bytes, url: str) -> dict[str, Any]:
    """text, finish_reason, model and usage of a chat completion. Raises: ValueError for anything else."""
    try:
        answer = json.loads(content)
        (choice,) = answer["choices"]
        usage = {name: int(answer["usage"][name]) for name in ("prompt_tokens", "completion_tokens")}
        found = {"text": choice["message"]["content"] or "", "finish_reason": choice["finish_reason"] or ""}
        found["model"] = answer["model"]
        if not all(isinstance(value, str) for value in found.values()):
            raise TypeError("text, finish_reason and model are not all text")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{url}: found {content[:120]!r} ({type(error).__name__}: {error}); expected a chat completion with one "
            "choice, its model and usage; check that the address ends where /chat/completions begins"
        ) from None
    text = found["text"].encode("utf-8", "replace").decode()  # half a character, which JSON can hold and Parquet cannot
    return {**found, "text": text, "usage": usage}
