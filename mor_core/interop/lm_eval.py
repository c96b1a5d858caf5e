"""A model as lm-eval's harness asks it: the only file that imports lm_eval, and only when it is called.

lm-eval is an extra of this project (`pip install 'mor-sweep[lm-eval]'`). Where it is installed,

    lm_eval.simple_evaluate(model=harness_model(text_model), tasks=["hellaswag"])

runs its own tasks, which it downloads. `mor-sweep eval` needs neither: it reads task files
(`mor_core.interop.tasks`) and asks the same `TextModel` for the same log-likelihoods.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from mor_core.errors import UserError
from mor_core.inference.request import Sampling
from mor_core.interop.text_model import Prompt, TextModel

if TYPE_CHECKING:
    from lm_eval.api.model import LM

DEFAULT_NEW_TOKENS = 256
"""What the harness generates where a task does not say."""


class NoHarness(UserError, ImportError):
    """lm-eval is not installed."""


def harness_model(text_model: TextModel) -> "LM":
    """The model as an `lm_eval.api.model.LM`. Raises NoHarness where lm-eval is not installed."""
    try:
        from lm_eval.api.model import LM
    except ImportError as error:
        raise NoHarness(
            f"lm-eval is not installed ({error}): `pip install 'mor-sweep[lm-eval]'`, or use `mor-sweep eval`, "
            "which needs it not"
        ) from error

    class HarnessModel(LM):
        """Answers the harness's three kinds of request; each carries its arguments in `args`."""

        def loglikelihood(self, requests: Sequence[Any], **_: object) -> list[tuple[float, bool]]:
            """(log-likelihood, whether greedy decoding would say it) of each (context, continuation)."""
            scores = text_model.log_likelihoods([request.args for request in requests])
            return [(score.log_likelihood, score.is_greedy) for score in scores]

        def loglikelihood_rolling(self, requests: Sequence[Any], **_: object) -> list[float]:
            """Log-likelihood of each (text,)."""
            return text_model.rolling_log_likelihoods([request.args[0] for request in requests])

        def generate_until(self, requests: Sequence[Any], **_: object) -> list[str]:
            """What comes after each (context, settings), up to a text of `until`."""
            return text_model.generate([_prompt(*request.args) for request in requests])

    return HarnessModel()


def _prompt(text: str, settings: Mapping[str, Any]) -> Prompt:
    """A request to generate; the harness's settings are those of transformers' `generate`."""
    until = settings.get("until") or ()
    sampled = settings.get("do_sample", settings.get("temperature", 0.0) > 0)
    return Prompt(
        text=text,
        stops=(until,) if isinstance(until, str) else tuple(until),
        max_new_tokens=settings.get("max_gen_toks", DEFAULT_NEW_TOKENS),
        sampling=Sampling(
            temperature=settings.get("temperature", 1.0) if sampled else 0.0,
            top_k=settings.get("top_k"),
            top_p=settings.get("top_p", 1.0),
        ),
    )
