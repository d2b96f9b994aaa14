"""Many streams in lock-step over one model, with what was computed once never computed again.

A place is a prefix of a source and the target tokens after it; the model's answer there depends on
no policy. Answers are therefore kept, and a sweep over thresholds asks the model only where two
trajectories part. A READ encodes the longer prefix and replays the target in one pass; a WRITE is
one step of the decoder.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from torch import Tensor

from lipogram.errors import InvalidSetting
from psfuture.answers import Asked, answers, attended_units
from psfuture.backend import Backend, State
from psfuture.futures import Future, PreparedFuture
from psfuture.policies import AlignAtt, Policy, PsFuture, WaitK
from psfuture.stream import Answer, Decision, Move, Stream, room_for
from psfuture.units import Unit, check_unit, source_words

Words = tuple[str, ...]
Source = tuple[Words, bool]
Place = tuple[Words, bool, tuple[int, ...]]


@dataclass
class Memo:
    """What the model said, by place.

    Attributes:
        encodings: encoder states by source units and whether they are closed.
        ids: source tokens, likewise.
        answers: of the model alone.
        compared: what a policy that needs more than them got, by what it needs.
        suffixes: invented futures by the future, the prefix and what an oracle saw.
        asked: rows that the decoder was run for; replayed tokens are in `replayed`.
    """

    encodings: dict[Source, Tensor] = field(default_factory=dict)
    ids: dict[Source, list[int]] = field(default_factory=dict)
    answers: dict[Place, Answer] = field(default_factory=dict)
    compared: dict[object, dict[Place, Answer]] = field(default_factory=dict)
    suffixes: dict[tuple[Future, Words, Words], list[Words]] = field(default_factory=dict)
    asked: int = 0
    replayed: int = 0


@dataclass
class _Lane:
    stream: Stream
    sentence: Words
    place: Source | None = None
    target: tuple[int, ...] = ()
    rows: tuple[int, ...] = ()


class Engine:
    """Runs streams of one policy until each has nothing left to do.

    Args:
        backend: the model.
        policy: that decides.
        memo: shared between engines of one model and unit; its own by default.
        unit: what a source is read in.
        analysis: allow futures that see words which have not been said.
        on_decision: told of every answer and what became of it, with the stream.

    Raises:
        InvalidSetting: such a future without `analysis`; an unknown unit; a policy that looks at
            attention over a model that does not give it.
    """

    def __init__(
        self,
        backend: Backend,
        policy: Policy,
        memo: Memo | None = None,
        *,
        unit: Unit = "word",
        analysis: bool = False,
        on_decision: Callable[[Stream, Decision], None] | None = None,
    ):
        check_unit(unit)
        self.backend, self.memo, self.unit = backend, memo or Memo(), unit
        self.analysis, self.on_decision = analysis, on_decision
        self.policy = policy
        self._state: State | None = None

    @property
    def policy(self) -> Policy:
        """The policy; another one holds from the next decision on."""
        return self._policy

    @policy.setter
    def policy(self, policy: Policy) -> None:
        future: Future | None = getattr(policy, "future", None)
        if future is not None and future.sees_future and not self.analysis:
            raise InvalidSetting("an oracle sees words that nobody has said yet: analysis only")
        if self.unit == "char" and isinstance(future, PreparedFuture):
            raise InvalidSetting("a language model continues words; characters need another future")
        self._attends = isinstance(policy, AlignAtt)
        if self._attends and not self.backend.attends:
            raise InvalidSetting(f"AlignAtt looks at attention, which {self.backend.name} lacks")
        self._policy, self._future = policy, future
        self._known = self.memo.answers
        self._comparison = policy.comparison if isinstance(policy, PsFuture | WaitK) else None
        if self._comparison is not None:
            self._known = self.memo.compared.setdefault(self._comparison, {})
        elif self._attends:
            self._known = self.memo.compared.setdefault("attention", {})

    def run(self, streams: Sequence[Stream], sentences: Sequence[Words] = ()) -> None:
        """Move every stream as far as it can go.

        Args:
            streams: changed in place.
            sentences: the whole source of each, for an oracle.

        Raises:
            NotFinite: the model's logits are NaN or infinite; the message names the stream.
            InvalidSetting: a source that the model has no positions for.
        """
        whole = list(sentences) or [()] * len(streams)
        lanes = [_Lane(s, w) for s, w in zip(streams, whole, strict=True)]
        self._state = None
        going = [lane for lane in lanes if not lane.stream.done]
        going = [lane for lane in going if lane.stream.resume()]
        while going := [lane for lane in going if self._go(lane)]:
            self._ask(going)
        self._state = None

    def _go(self, lane: _Lane) -> bool:
        """Follow what is known; true where the model has to be asked."""
        stream = lane.stream
        while not stream.done:
            place = self._place(stream)
            answer = (self.memo.answers if stream.finished else self._known).get(place)
            if answer is None:
                return True
            room = room_for(len(self._ids(place[:2])), self.backend.max_source)
            early = not stream.finished
            reads = stream.reads
            move = stream.move(self.policy, answer, self.backend, room)
            if early and self.on_decision and move in (Move.READ, Move.WRITE):
                self.on_decision(stream, self._decision(stream, reads, answer, move))
            if move is Move.READ and not stream.read():
                stream.waiting = True
                return False
        return False

    def _decision(self, stream: Stream, reads: int, answer: Answer, move: Move) -> Decision:
        tokens = stream.tokens[:-1] if move is Move.WRITE else stream.tokens
        before = self.backend.target_text(tokens)
        after = self.backend.target_text([*tokens, answer.token])
        return Decision(
            reads,
            after[len(before) :] if after.startswith(before) else after,
            answer.divergence,
            getattr(self.policy, "threshold", None),
            move is Move.WRITE,
        )

    def _place(self, stream: Stream) -> Place:
        return stream.prefix, stream.finished or self.policy.prefix_eos, stream.target

    def _ids(self, source: Source) -> list[int]:
        if source not in self.memo.ids:
            words = source_words(source[0], self.unit)
            self.memo.ids[source] = self.backend.source_ids(words, closed=source[1])
        return self.memo.ids[source]

    def _ask(self, lanes: Sequence[_Lane]) -> None:
        stepping: list[_Lane] = []
        fresh: list[_Lane] = []
        for lane in lanes:
            prefix, closed, target = self._place(lane.stream)
            grown = lane.place == (prefix, closed) and target[:-1] == lane.target and target
            (stepping if grown and lane.rows else fresh).append(lane)
        parts: list[tuple[list[_Lane], State, Tensor]] = []
        if stepping:
            assert self._state is not None
            state = self._state.select([row for lane in stepping for row in lane.rows])
            tokens = [lane.stream.target[-1] for lane in stepping for _ in lane.rows]
            self.memo.asked += len(tokens)
            parts.append((stepping, *self.backend.step(state, tokens)))
        if fresh:
            parts.append((fresh, *self._begin(fresh)))
        at = 0
        for group, state, logits in parts:
            used = 0
            asked = []
            for lane in group:
                count = len(lane.rows)
                asked.append(self._asked(lane, range(used, used + count)))
                lane.rows = tuple(range(at, at + count))
                at, used = at + count, used + count
            self._keep(group, asked, logits, state)
        self._state = (
            parts[0][1] if len(parts) == 1 else self.backend.join([part[1] for part in parts])
        )

    def _begin(self, lanes: Sequence[_Lane]) -> tuple[State, Tensor]:
        sources: list[Source] = []
        targets: list[tuple[int, ...]] = []
        invented = self._invent([lane for lane in lanes if not lane.stream.finished])
        for lane in lanes:
            prefix, closed, target = self._place(lane.stream)
            own = [(prefix, closed)]
            if self._future is not None and not lane.stream.finished:
                own += [self._fitting(prefix, suffix) for suffix in invented[id(lane)]]
            lane.place, lane.rows = (prefix, closed), tuple(range(len(own)))
            sources += own
            targets += [target] * len(own)
        missing = [s for s in dict.fromkeys(sources) if s not in self.memo.encodings]
        if missing:
            found = self.backend.encode([self._ids(source) for source in missing])
            self.memo.encodings.update(zip(missing, found, strict=True))
        self.memo.asked += len(sources)
        self.memo.replayed += sum(map(len, targets))
        return self.backend.begin([self.memo.encodings[s] for s in sources], targets)

    def _fitting(self, prefix: Words, suffix: Words) -> Source:
        """The prefix with as much of the suffix as the model has positions for."""
        most = self.backend.max_source
        for length in range(len(suffix), 0, -1):
            source = (prefix + suffix[:length], True)
            if most is None or len(self._ids(source)) <= most:
                return source
        return prefix, True

    def _invent(self, lanes: Sequence[_Lane]) -> dict[int, list[Words]]:
        if self._future is None or not lanes:
            return {}
        future, seen = self._future, self.memo.suffixes
        keys = {
            id(lane): (future, lane.stream.prefix, lane.sentence if future.sees_future else ())
            for lane in lanes
        }
        new = {key: None for key in keys.values() if key not in seen}
        if new:
            sentences = [key[2] for key in new] if future.sees_future else ()
            seen.update(zip(new, future.invent([key[1] for key in new], sentences), strict=True))
        return {place: seen[key] for place, key in keys.items()}

    def _asked(self, lane: _Lane, rows: range) -> Asked:
        return Asked(lane.stream.words, lane.stream.reads, self._place(lane.stream)[2], rows)

    def _keep(
        self, lanes: Sequence[_Lane], asked: Sequence[Asked], logits: Tensor, state: State
    ) -> None:
        """Keep what the model said to these lanes."""
        alone, chosen = answers(asked, logits, self._comparison)
        if self._attends:
            attention = self.backend.attention(state)
            ends = [self._ends(lane.stream.prefix) for lane in lanes]
            chosen = attended_units(chosen, attention, ends)
        for lane, plain, answer in zip(lanes, alone, chosen, strict=True):
            place = self._place(lane.stream)
            lane.target = place[2]
            self.memo.answers.setdefault(place, plain)
            if not lane.stream.finished:
                self._known[place] = answer

    def _ends(self, prefix: Words) -> list[int]:
        """Source tokens up to the end of each unit of the prefix."""
        return [len(self._ids((prefix[: at + 1], False))) for at in range(len(prefix))]
