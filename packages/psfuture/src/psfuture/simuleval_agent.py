"""The agent for SimulEval's own command, by class or as a file.

    simuleval --agent-class psfuture.simuleval_agent.PsFutureAgent --source en.txt --target pt.txt

It runs where psfuture and SimulEval are both installed; nothing else in psfuture imports it.
SimulEval's pins keep it from being an extra: `pip install --no-deps simuleval==1.1.4` and
`pip install textgrid tornado` bring it.
"""

from __future__ import annotations

from argparse import ArgumentParser, BooleanOptionalAction, Namespace

from lipogram.errors import InvalidSetting, MissingExtra

try:
    from simuleval.agents import TextToTextAgent
    from simuleval.agents.actions import Action, ReadAction, WriteAction
    from simuleval.utils import entrypoint
except ImportError as error:
    raise MissingExtra(
        "SimulEval",
        "pip install --no-deps simuleval==1.1.4, and pip install textgrid tornado",
    ) from error

from psfuture.models import load
from psfuture.policies import Limits
from psfuture.policy_text import default_future, make_policy
from psfuture.session import Session


@entrypoint
class PsFutureAgent(TextToTextAgent):
    """Translates the words that SimulEval sends, by any model and policy of psfuture.

    SimulEval sends a word before each call of :meth:`policy` while there are any, so a call reads
    what has come, lets the policy write until it wants to read, and shows all words that are
    finished then. One word a call would charge each with a word of waiting that nobody asked for.

    Args:
        args: of :meth:`add_args`, and SimulEval's `device`, `dtype` and `fp16`.

    Raises:
        InvalidSetting: arguments that do not fit together.
        LipogramError: what :func:`psfuture.models.load` raises.
    """

    def __init__(self, args: Namespace):
        half = args.fp16 or args.dtype == "fp16"
        self.model = load(
            args.model,
            device=args.device,
            dtype="float16" if half else "auto",
            src_lang=args.source_lang,
            tgt_lang=args.target_lang,
        )
        self.decides = make_policy(
            _policy_text(args.policy, args.threshold),
            future=args.pseudo_future or default_future(args.model, args.source_lang),
            prefix_eos=args.prefix_eos,
            limits=Limits(
                args.min_reads,
                args.max_consecutive_reads,
                args.max_consecutive_writes,
                args.max_words_per_read,
            ),
        )
        super().__init__(args)

    @staticmethod
    def add_args(parser: ArgumentParser) -> None:
        """Declare the agent's arguments."""
        add = parser.add_argument
        add("--model", default="enpt", help="as psfuture.load takes it: enpt, bergamot:DIR, an id")
        add("--policy", default="psfuture", help="or psfuture:0.1, wait:3, agreement:2, offline")
        add("--threshold", type=float, help="lambda of --policy psfuture")
        add(
            "--pseudo-future",
            help='lm, "fixed: and so on.", ellipsis, eos, frequent:FILE; default: lm of English',
        )
        add(
            "--prefix-eos",
            action=BooleanOptionalAction,
            default=True,
            help="end a prefix by the end of sentence, as sentences ended in training",
        )
        add("--source-lang", help="of a model of many languages")
        add("--target-lang", help="of a model of many languages")
        add("--min-reads", type=int, default=1, help="words read before the first is written")
        add("--max-consecutive-reads", type=int, help="then a token is written")
        add("--max-consecutive-writes", type=int, help="then a word is read")
        add("--max-words-per-read", type=int, help="words begun after each word read")

    def reset(self) -> None:
        """Begin another sentence."""
        super().reset()
        self.session = Session(self.model, self.decides)

    def policy(self) -> Action:
        """All words that are finished after what was sent so far."""
        stream = self.session.stream
        sent = self.states.source[len(stream.words) :]
        events = self.session.push(" ".join(sent), last=self.states.source_finished)
        words = [event.text for event in events if event.kind == "write"]
        if words or stream.done:
            return WriteAction(" ".join(words), finished=stream.done)
        return ReadAction()


def _policy_text(policy: str, threshold: float | None) -> str:
    if threshold is None:
        return policy
    if policy != "psfuture":
        raise InvalidSetting(f"--threshold is for --policy psfuture, not for {policy!r}")
    return f"psfuture:{threshold}"
