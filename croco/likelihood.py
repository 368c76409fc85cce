"""Likelihood: contexts and continuations as token ids -> each continuation's log-probability, by transformers.

A language model reads a context and its continuation as one row; a translation model (encoder and decoder) reads the
context and is asked for the continuation. Texts of like length are computed together, padded on the right and masked.
Only where a token of a continuation is predicted do hidden states become logits, some at a time, by the model's own
head in float32: those of every word at every place would be gigabytes, and in bfloat16 a logit of 20 is off by up to
.06, which over an answer's hundreds of tokens would be nats.
"""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from croco import engine

if TYPE_CHECKING:
    from torch import Tensor

Text = tuple[list[int], list[int]]
"""Token ids of a context, of which a language model needs one or more, and of its continuation."""
Scored = tuple[float, int]
"""A continuation's log-probability in nats, summed over its tokens, and how many they are."""
PLACES = 256
"""Of which logits are computed at once (ours): 256 MB for the 256k words of Tiny Aya or Gemma."""


class Likelihood:
    """A loaded model that counts its tokens."""

    tokens_out = 0

    def __init__(self, model: Any, max_tokens: int, gpus: int = 0) -> None:
        """`max_tokens`: of a batch, padding too; a longer text is a batch alone. `gpus`: occupied; 0 on a CPU."""
        self.model, self.max_tokens, self.gpus = model.eval(), max_tokens, gpus
        self.tokens_in = 0
        self._layers = model.base_model
        self._compute = self._layers.forward
        _widen(model.get_output_embeddings())

    def __call__(self, texts: Sequence[Text]) -> list[Scored]:
        """In order; one does not depend on what else is computed with it, but for rounding.

        Raises: ValueError for a log-probability that is not finite.
        """
        import torch
        from tqdm import tqdm

        found: list[Scored] = [(0.0, 0)] * len(texts)
        sizes = [len(context) + len(continuation) for context, continuation in texts]
        with torch.inference_mode(), tqdm(total=sum(sizes), desc="likelihood", unit="token", leave=False) as bar:
            for places in batches(sizes, self.max_tokens):
                sums = self._sums([texts[place] for place in places])
                for place, total in zip(places, sums, strict=True):
                    found[place] = total, len(texts[place][1])
                bar.update(sum(sizes[place] for place in places))
        self.tokens_in += sum(sizes)
        return found

    def _sums(self, texts: Sequence[Text]) -> list[float]:
        import torch

        states, targets = (self._translated if self.model.config.is_encoder_decoder else self._continued)(texts)
        logs = self._logs(states, targets).double()
        if not logs.isfinite().all():
            raise ValueError(
                f"likelihood: found log-probabilities that are not finite, in {len(texts)} texts; expected none; "
                "look at the model's weights"
            )
        return torch.stack([part.sum() for part in logs.split([len(text[1]) for text in texts])]).tolist()

    def _continued(self, texts: Sequence[Text]) -> tuple["Tensor", "Tensor"]:
        """Hidden states [tokens, width] that predict the continuations' tokens, and those [tokens]; text after text."""
        ids, real = self._padded([context + continuation for context, continuation in texts])
        asked = real.clone()
        for row, (context, _) in zip(asked, texts, strict=True):
            row[: len(context)] = False
        states = self._states(input_ids=ids, attention_mask=real.long())
        return states[:, :-1][asked[:, 1:]], ids[:, 1:][asked[:, 1:]]

    def _translated(self, texts: Sequence[Text]) -> tuple["Tensor", "Tensor"]:
        """As `_continued`, of a model with encoder and decoder."""
        ids, real = self._padded([context for context, _ in texts])
        targets, asked = self._padded([continuation for _, continuation in texts])
        before = targets.roll(1, dims=1)
        before[:, 0] = self.model.config.decoder_start_token_id
        states = self._states(input_ids=ids, attention_mask=real.long(), decoder_input_ids=before)
        return states[asked], targets[asked]

    def _padded(self, rows: Sequence[list[int]]) -> tuple["Tensor", "Tensor"]:
        """Ids [rows, time], padded on the right, and which of them are real."""
        import torch
        from torch.nn.utils.rnn import pad_sequence

        padding, device = getattr(self.model.config, "pad_token_id", None) or 0, self.model.device  # Gemma 3 has none
        ids = pad_sequence([torch.tensor(row, device=device) for row in rows], True, padding)
        lengths = torch.tensor([len(row) for row in rows], device=device)
        return ids, torch.arange(ids.shape[1], device=device) < lengths[:, None]

    def _states(self, **inputs: "Tensor") -> "Tensor":
        """Hidden states [rows, time, width]."""
        self._output = self._compute(**inputs, use_cache=False)
        return self._output.last_hidden_state.to(self.model.device)  # layers may end on another GPU

    def _logs(self, states: "Tensor", targets: "Tensor") -> "Tensor":
        """Log-probabilities [tokens] of `targets`."""
        import torch
        from torch.nn.functional import cross_entropy

        some = zip(states.split(PLACES), targets.split(PLACES), strict=True)
        return -torch.cat([cross_entropy(self._logits(part), of, reduction="none") for part, of in some])

    def _logits(self, states: "Tensor") -> "Tensor":
        """[tokens, words] by the model's own forward, its layers left out, for some scale their logits or add to them
        (Cohere, Gemma, Granite, Marian).
        """
        self._output.last_hidden_state = states[None]
        self._layers.forward = lambda *_, **__: self._output
        try:
            return self.model(use_cache=False).logits[0].to(states.device)
        finally:
            self._layers.forward = self._compute


def _widen(head: Any) -> None:
    """Have a model's output embeddings compute in float32; in a model of float32 they are the same tensors."""
    from torch.nn.functional import linear

    weight, bias = head.weight.float(), None if head.bias is None else head.bias.float()
    head.forward = lambda states: linear(states.to(weight), weight, bias)


def batches(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Places of `sizes`, the largest first, in groups whose largest times their number is at most `most`; one that is
    larger is a group alone.

    The largest first: memory that does not do is found at once.
    """
    group: list[int] = []
    for place in sorted(range(len(sizes)), key=lambda place: -sizes[place]):
        if group and sizes[group[0]] * (len(group) + 1) > most:
            yield group
            group = []
        group.append(place)
    if group:
        yield group


def translates(model: str, revision: str | None = None) -> bool:
    """Whether a model has an encoder and a decoder."""
    from transformers import AutoConfig

    config = AutoConfig.from_pretrained(model, revision=revision, trust_remote_code=False)
    return bool(config.is_encoder_decoder)


def load(model: str, revision: str | None = None, *, max_tokens: int, gpus: int = 1) -> Likelihood:
    """The model of a local folder or hub id; `gpus` > 1 puts its layers on all that are there."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    loader: Any = AutoModelForSeq2SeqLM if translates(model, revision) else AutoModelForCausalLM
    place = ("cuda" if gpus == 1 else "auto") if engine.on_gpus() else None
    loaded = loader.from_pretrained(
        model,
        revision=revision,
        trust_remote_code=False,
        use_safetensors=True,
        dtype=getattr(torch, engine.dtype()),
        device_map=place,
    )
    return Likelihood(loaded, max_tokens, gpus * engine.on_gpus())
