"""The rows that share a model's forward passes: they join, go on by a token, fail and leave."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from lipogram.errors import NotFinite, UnsupportedArchitecture
from lipogram.llm.forward import last_logits
from lipogram.llm.text import Encoded, pad, pad_id
from lipogram.llm.wrappers import unwrap
from privacyrestore.engine_row import Row
from privacyrestore.row_cache import RowCache, check_cache
from privacyrestore.steered_model import SteeredModel, set_rows


class RowBatch:
    """Rows in one cache, each restored by its own vector.

    Args:
        steered: the model with its banks; its lock is held during every forward pass.
        leave: called with each row that has ended, once it is out of the batch.

    Attributes:
        rows: those in the batch.
        forwards, new_tokens: passes of the model and tokens chosen since the start.

    Raises:
        UnsupportedArchitecture: a model whose rows cannot be padded and joined.
        InvalidSetting: a tokenizer that has nothing to pad with.
    """

    def __init__(self, steered: SteeredModel, leave: Callable[[Row], None]):
        check_cache(steered.model)
        self.rows: list[Row] = []
        self.forwards = self.new_tokens = 0
        self._steered, self._leave = steered, leave
        self._pad = pad_id(steered.tokenizer)
        self._restoration, self._restored = steered.restoration(), list[Row]()
        self._cache = RowCache([])

    def advance(self, new: list[Row]) -> None:
        """One token for every row, a second one for those that join."""
        self._clear()
        if new:
            self._attempt(self._begin, new)
        if self.rows:
            self._attempt(self._step, self.rows)

    def _attempt(self, run: Callable[[list[Row]], None], rows: list[Row]) -> None:
        """Run a pass; where it fails, each row by itself, so that only those at fault fail.

        Each row then reads its tokens again and goes on by one, so a pass that always fails with
        all of them is slow, and still ends.
        """
        try:
            run(rows)
            return
        except Exception as error:
            left = [row for row in dict.fromkeys([*self.rows, *rows]) if not row.left]
            self.rows, self._cache = [], RowCache([])  # some of its layers may have grown
            if len(left) == 1:
                left[0].fail(error)
        for row in left:
            try:
                if not row.ended:
                    self._begin([row])
            except Exception as error:
                row.fail(error)
            if row.ended and not row.left:
                self._leave(row)

    def _begin(self, rows: list[Row]) -> None:
        """Read prompts (and what was said, after a failure) and put the rows into the batch."""
        batch = pad([Encoded(row.ids, []) for row in rows], self._pad).to(self._steered.device)
        cache = RowCache([len(row.ids) for row in rows])
        self._take(rows, self._forward(rows, batch.inputs(), cache))
        self._cache.join(cache)
        self.rows += rows
        self._clear()

    def _step(self, rows: list[Row]) -> None:
        """One more token of the rows in the batch."""
        device, cache = self._steered.device, self._cache
        positions = torch.tensor(cache.lengths, device=device)[:, None]
        cache.lengths = [length + 1 for length in cache.lengths]
        inputs = {
            "input_ids": torch.tensor([[row.said[-1]] for row in rows], device=device),
            "attention_mask": cache.mask(device),
            "position_ids": positions,
        }
        self._take(rows, self._forward(rows, inputs, cache))
        self._clear()

    def _forward(self, rows: list[Row], inputs: dict[str, Tensor], cache: RowCache) -> Tensor:
        """Logits (b, v) of the next tokens."""
        model: Any = self._steered.model
        with self._steered.lock:
            if rows != self._restored:
                set_rows(self._restoration, [row.vector for row in rows])
                self._restored = list(rows)
            with self._restoration.attach():
                last, output = last_logits(
                    model, inputs, 1, past_key_values=cache.cache, use_cache=True
                )
        self.forwards += 1
        if output.past_key_values is not cache.cache or cache.cache.get_seq_length() != cache.width:
            raise UnsupportedArchitecture(
                unwrap(model).config.model_type, (), "it keeps a cache of its own"
            )
        return last[:, 0]

    def _take(self, rows: list[Row], logits: Tensor) -> None:
        bad = (logits.isnan().any(-1) | logits.isposinf().any(-1)).tolist()
        likeliest = logits.argmax(-1).tolist()
        for row, numbers, is_bad, best in zip(rows, logits, bad, likeliest, strict=True):
            if is_bad:
                row.fail(NotFinite("the logits of this request are not finite"))
            else:
                self.new_tokens += 1
                row.take(numbers, best)

    def _clear(self) -> None:
        """Let the rows leave that have ended, or that nobody waits for any more."""
        for row in self.rows:
            if row.unwanted and not row.ended:
                row.leave_early()
        stay = [i for i, row in enumerate(self.rows) if not row.ended]
        if len(stay) == len(self.rows):
            return
        ended = [row for row in self.rows if row.ended]
        self.rows = [self.rows[i] for i in stay]
        for row in ended:
            self._leave(row)
        self._cache.keep(stay)
