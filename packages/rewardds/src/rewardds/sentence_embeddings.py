"""Sentence embeddings of all-MiniLM-L6-v2, from files alone."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from lipogram.errors import InvalidSetting


class SentenceEmbeddings:
    """Texts as vectors whose inner product says how alike they are.

    The mean over a text's tokens of a BERT-like model's last hidden states, scaled to length 1
    (Reimers and Gurevych, 2019, arXiv 1908.10084). The model is public and reads each text by
    itself.

    Args:
        folder: of another such model, with safetensors; None for the asset "minilm", 84 MB.
        max_tokens: of a text that are read, the two marks around it included.
        batch: texts at once, sorted by length.
        device: to run on; None for the CPU.
        download: False never touches the network.

    Raises:
        InvalidSetting: `max_tokens` below 3 or `batch` below 1.
        MissingAsset: the model is nowhere.
        AssetMismatch: the asset has other contents than it must have.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        *,
        max_tokens: int = 256,
        batch: int = 32,
        device: str | torch.device | None = None,
        download: bool = True,
    ):
        from transformers import AutoModel, AutoTokenizer

        if max_tokens < 3 or batch < 1:
            raise InvalidSetting(
                f"max_tokens is {max_tokens} and batch {batch}: they must be at least 3 and 1"
            )
        if folder is None:
            from lipogram import assets

            folder = assets.get("minilm", download=download)
        where = {"local_files_only": True, "trust_remote_code": False}
        self._tokenizer = AutoTokenizer.from_pretrained(str(folder), **where)
        model = AutoModel.from_pretrained(str(folder), use_safetensors=True, **where)
        self._model = model.to(device or "cpu").eval()
        self.max_tokens, self.batch = max_tokens, batch

    @torch.no_grad()
    def __call__(self, texts: Sequence[str]) -> np.ndarray:
        """(n, d) float32, one row of length 1 a text."""
        out = np.empty((len(texts), self._model.config.hidden_size), np.float32)
        order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
        for start in range(0, len(order), self.batch):
            indices = order[start : start + self.batch]
            out[indices] = self._embed([texts[i] for i in indices]).cpu().numpy()
        return out

    def _embed(self, texts: list[str]) -> Tensor:
        encoded = self._tokenizer(
            texts, truncation=True, max_length=self.max_tokens, padding=True, return_tensors="pt"
        ).to(self._model.device)
        hidden = self._model(**encoded).last_hidden_state
        real = encoded["attention_mask"].unsqueeze(-1).to(hidden)
        mean = (hidden * real).sum(1) / real.sum(1)
        return torch.nn.functional.normalize(mean, dim=1).float()
