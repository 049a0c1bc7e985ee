"""What takes a run seconds to import: `child_runs` forks from a process that has it."""

import agentscope.agent  # noqa: F401
import openai  # noqa: F401
import torch
import transformers.models.qwen2.modeling_qwen2  # noqa: F401

import astuner.backbone.debug.backbone
import astuner.backbone.local.backbone
import astuner.cli
import astuner.launch  # noqa: F401

torch.set_num_threads(1)
