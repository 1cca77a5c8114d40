"""Language models as policies of Stable-Baselines3.

The actor-critic (`causal_lm`), its encoder-decoder sibling (`seq2seq`), and those that an
algorithm brings: guided by values, told an instruction or a return, with two critics. Imports
`common`, `losses` and `checkpoints`.
"""

from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.embedding import IdEmbedding
from agents.policies.instructed import InstructedPolicy, InstructedSeq2SeqPolicy
from agents.policies.return_conditioned import ReturnConditionedPolicy
from agents.policies.seq2seq import Seq2SeqPolicy
from agents.policies.two_critics import TwoCriticPolicy, TwoCriticSeq2SeqPolicy
from agents.policies.value_guided import ValueGuidedPolicy

__all__ = [
    "CausalLMPolicy",
    "IdEmbedding",
    "InstructedPolicy",
    "InstructedSeq2SeqPolicy",
    "ReturnConditionedPolicy",
    "Seq2SeqPolicy",
    "TwoCriticPolicy",
    "TwoCriticSeq2SeqPolicy",
    "ValueGuidedPolicy",
]
