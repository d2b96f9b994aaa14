"""Many streams in lock-step over one model, with what was computed once never computed again.

A place is a prefix of a source and the target tokens after it; the model's answer there depends on
no policy. Answers are therefore kept, and a sweep over thresholds asks the model only where two
trajectories part. A READ encodes the longer prefix and replays the target in one pass; a WRITE is
one step of the decoder.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from lipogram.errors import InvalidSetting, NotFinite
from psfuture.backend import Backend, State
from psfuture.divergences import divergence
from psfuture.futures import Future
from psfuture.policies import Policy, PsFuture
from psfuture.stream import Answer, Move, Stream, room_for

Words = tuple[str, ...]
Place = tuple[Words, bool, tuple[int, ...]]


@dataclass
class Memo:
    """What the model said, by place.

    Attributes:
        encodings: encoder states by source words and whether they are closed.
        answers: without a future.
        compared: with one, by the future's and the divergence's identity.
        asked: rows that the decoder was asked for; replayed tokens are in `replayed`.
    """

    encodings: dict[tuple[Words, bool], Tensor] = field(default_factory=dict)
    lengths: dict[tuple[Words, bool], int] = field(default_factory=dict)
    answers: dict[Place, Answer] = field(default_factory=dict)
    compared: dict[tuple[object, ...], dict[Place, Answer]] = field(default_factory=dict)
    suffixes: dict[tuple[int, Words, Words], list[Words]] = field(default_factory=dict)
    asked: int = 0
    replayed: int = 0


@dataclass
class _Lane:
    stream: Stream
    sentence: Words
    place: tuple[Words, bool] | None = None
    target: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


class Engine:
    """Runs streams of one policy until each has nothing left to do.

    Args:
        backend: the model.
        policy: that decides.
        memo: shared between engines of one model; its own by default.
        analysis: allow futures that see words which have not been said.

    Raises:
        InvalidSetting: such a future without `analysis`.
    """

    def __init__(
        self,
        backend: Backend,
        policy: Policy,
        memo: Memo | None = None,
        *,
        analysis: bool = False,
    ):
        self.backend, self.policy, self.memo = backend, policy, memo or Memo()
        self.future: Future | None = getattr(policy, "future", None)
        if self.future is not None and self.future.sees_future and not analysis:
            raise InvalidSetting("an oracle sees words that nobody has said yet: analysis only")
        self.known = self.memo.answers
        if self.future is not None:
            assert isinstance(policy, PsFuture)
            key = (self.future, policy.divergence, policy.reduce)
            self.known = self.memo.compared.setdefault(key, {})
            self.distance = divergence(policy.divergence)
        self.state: State | None = None

    def run(self, streams: Sequence[Stream], sentences: Sequence[Words] = ()) -> None:
        """Move every stream as far as it can go.

        Args:
            streams: changed in place.
            sentences: the whole source of each, for an oracle.

        Raises:
            NotFinite: the model's logits are NaN or infinite; the message names the stream.
        """
        whole = list(sentences) or [()] * len(streams)
        lanes = [_Lane(s, w) for s, w in zip(streams, whole, strict=True)]
        self.state = None
        going = [lane for lane in lanes if not lane.stream.done]
        going = [lane for lane in going if lane.stream.reads or lane.stream.read()]
        while going:
            asking = [lane for lane in going if self._go(lane)]
            self._ask(asking)
            going = asking

    def _go(self, lane: _Lane) -> bool:
        """Follow what is known; true where the model has to be asked."""
        stream = lane.stream
        while not stream.done:
            key = self._place(stream)
            answer = self._known(key, stream)
            if answer is None:
                return True
            room = room_for(self._source_length(key[:2]))
            move = stream.move(self.policy, answer, self.backend, room)
            if move is Move.READ and not stream.read():
                if not stream.finished:
                    return False
        return False

    def _known(self, key: Place, stream: Stream) -> Answer | None:
        if stream.finished:
            return self.memo.answers.get(key)
        return self.known.get(key)

    def _place(self, stream: Stream) -> Place:
        return stream.prefix, stream.finished or self.policy.prefix_eos, stream.target

    def _source_length(self, source: tuple[Words, bool]) -> int:
        if source not in self.memo.lengths:
            ids = self.backend.source_ids(source[0], closed=source[1])
            self.memo.lengths[source] = len(ids)
        return self.memo.lengths[source]

    def _ask(self, lanes: Sequence[_Lane]) -> None:
        if not lanes:
            return
        stepping, fresh = [], []
        for lane in lanes:
            prefix, closed, target = self._place(lane.stream)
            grown = lane.place == (prefix, closed) and target[:-1] == lane.target and target
            (stepping if grown and lane.rows else fresh).append(lane)
        parts: list[tuple[list[_Lane], State, Tensor]] = []
        if stepping:
            assert self.state is not None
            state = self.state.select([row for lane in stepping for row in lane.rows])
            tokens = [lane.stream.target[-1] for lane in stepping for _ in lane.rows]
            self.memo.asked += len(tokens)
            parts.append((stepping, *self.backend.step(state, tokens)))
        if fresh:
            parts.append((fresh, *self._begin(fresh)))
        at = 0
        for group, _, logits in parts:
            used = 0
            for lane in group:
                count = len(lane.rows)
                lane.rows = tuple(range(at, at + count))
                self._keep(lane, logits[used : used + count])
                at, used = at + count, used + count
        self.state = (
            parts[0][1] if len(parts) == 1 else self.backend.join([part[1] for part in parts])
        )

    def _begin(self, lanes: Sequence[_Lane]) -> tuple[State, Tensor]:
        sources: list[tuple[Words, bool]] = []
        targets: list[tuple[int, ...]] = []
        invented = self._invent([lane for lane in lanes if not lane.stream.finished])
        for lane in lanes:
            prefix, closed, target = self._place(lane.stream)
            own = [(prefix, closed)]
            if self.future is not None and not lane.stream.finished:
                own += [(prefix + s, True) for s in invented[id(lane)]]
            lane.place, lane.rows = (prefix, closed), tuple(range(len(own)))
            sources += own
            targets += [target] * len(own)
        missing = [s for s in dict.fromkeys(sources) if s not in self.memo.encodings]
        if missing:
            ids = [self.backend.source_ids(words, closed=closed) for words, closed in missing]
            self.memo.encodings.update(zip(missing, self.backend.encode(ids), strict=True))
        self.memo.asked += len(sources)
        self.memo.replayed += sum(map(len, targets))
        return self.backend.begin([self.memo.encodings[s] for s in sources], targets)

    def _invent(self, lanes: Sequence[_Lane]) -> dict[int, list[Words]]:
        if self.future is None or not lanes:
            return {}
        seen = self.memo.suffixes
        rest = {id(lane): lane.sentence if self.future.sees_future else () for lane in lanes}
        keys = {id(lane): (id(self.future), lane.stream.prefix, rest[id(lane)]) for lane in lanes}
        new = [lane for lane in lanes if keys[id(lane)] not in seen]
        if new:
            found = self.future.invent(
                [lane.stream.prefix for lane in new],
                [lane.sentence for lane in new] if self.future.sees_future else (),
            )
            seen.update((keys[id(lane)], made) for lane, made in zip(new, found, strict=True))
        return {id(lane): seen[keys[id(lane)]] for lane in lanes}

    def _keep(self, lane: _Lane, logits: Tensor) -> None:
        stream = lane.stream
        place = self._place(stream)
        lane.target = place[2]
        top = logits[0].topk(2).values
        if not torch.isfinite(top).all() or torch.isnan(logits).any():
            raise NotFinite(
                f"the model's logits are not finite after {stream.reads} words of "
                f"{' '.join(stream.words[:5])!r}… and {len(lane.target)} tokens"
            )
        distance = None
        if len(logits) > 1:
            p = torch.softmax(logits.float(), -1)
            assert isinstance(self.policy, PsFuture)
            each = self.distance(p[:1].expand(len(p) - 1, -1), p[1:])
            distance = float(each.mean() if self.policy.reduce == "mean" else each.max())
        answer = Answer(int(logits[0].argmax()), distance, float(top[0] - top[1]))
        self.memo.answers.setdefault(place, answer)
        if not stream.finished:
            self.known[place] = answer
