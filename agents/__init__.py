"""Agents for text environments, in the shape of Stable-Baselines3."""

from __future__ import annotations

from agents.bc import BC
from agents.checkpoints.storage import SaveEvery
from agents.common.envs import policy_kwargs_for
from agents.cql import CQL
from agents.decision_transformer import DecisionTransformer
from agents.dpg import DPG
from agents.farl import FARL
from agents.hir import HIR
from agents.ilql import ILQL
from agents.mc import MCValues
from agents.policies.causal_lm import CausalLMPolicy
from agents.policies.embedding import IdEmbedding
from agents.policies.instructed import InstructedPolicy, InstructedSeq2SeqPolicy
from agents.policies.seq2seq import Seq2SeqPolicy
from agents.policies.value_guided import ValueGuidedPolicy
from agents.policy_gradient import GRPO, REINFORCE, RLOO
from agents.ppo import PPO
from agents.rlgf import D2LOLS, LOLS, AggreVaTeD, PPOPlusPlus
from agents.rollouts.evaluation import evaluate_texts, mean_and_interval
from agents.rollouts.whitening import WhitenRewards
from text_envs.lm.loading import freeze, load_lm
from text_envs.lm.scratch import make_iid_lm, make_lm

__all__ = [
    "D2LOLS",
    "LOLS",
    "AggreVaTeD",
    "PPOPlusPlus",
    "BC",
    "CQL",
    "DPG",
    "FARL",
    "GRPO",
    "HIR",
    "ILQL",
    "PPO",
    "REINFORCE",
    "RLOO",
    "CausalLMPolicy",
    "DecisionTransformer",
    "IdEmbedding",
    "InstructedPolicy",
    "InstructedSeq2SeqPolicy",
    "MCValues",
    "SaveEvery",
    "Seq2SeqPolicy",
    "ValueGuidedPolicy",
    "WhitenRewards",
    "evaluate_texts",
    "freeze",
    "load_lm",
    "make_iid_lm",
    "make_lm",
    "mean_and_interval",
    "policy_kwargs_for",
]
